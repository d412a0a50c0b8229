"""The policy and its files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from postmortem.checkpoint.policy import Policy
from postmortem.errors import UnreadableInput, UsageError

SEED = """\
checkpoint:
  rollback_every: 100
  recovery_every: 1000
  best_k: 3
  best_k_metric: dev_loss
  best_k_direction: minimize
  retention:
    rollback_keep: 5
    recovery_keep: 3
"""


def test_the_seeds_yaml_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(SEED)
    assert Policy.from_file(file) == Policy()
    file.write_text(SEED.replace("100\n", "50\n").replace("_keep: 5", "_keep: 7") + "model: {width: 8}\n")
    assert Policy.from_file(file) == Policy(rollback_every=50, rollback_keep=7)


def test_a_policy_in_toml_is_the_one_in_yaml(tmp_path: Path) -> None:
    """The suffix decides, in any case of letters; other tables of the file are ignored."""
    file = tmp_path / "train.TOML"
    file.write_text(
        '[model]\nwidth = 8\n[checkpoint]\nrollback_every = 50\nbest_k_metric = "dev_loss"\n'
        "[checkpoint.retention]\nrollback_keep = 7\n"
    )
    assert Policy.from_file(file) == Policy(rollback_every=50, rollback_keep=7)
    with pytest.raises(UnreadableInput, match="cannot be read as YAML"):
        Policy.from_file(file.rename(tmp_path / "train.yaml"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"checkpoint": {"rollback_evry": 100}}, "rollback_evry"),
        ({"checkpoint": {"rollback_keep": 5}}, "rollback_keep"),
        ({"checkpoint": {"retention": {"best_keep": 5}}}, "best_keep"),
        ({"checkpoint": {"rollback_every": "100"}}, "rollback_every"),
        ({"checkpoint": {"rollback_every": True}}, "rollback_every"),
        ({"checkpoint": {"rollback_every": -1}}, "rollback_every"),
        ({"checkpoint": {"retention": {"recovery_keep": 0}}}, "recovery_keep"),
        ({"checkpoint": {"best_k_direction": "up"}}, "best_k_direction"),
        ({"checkpoint": {"best_k_metric": "../../x\x1b"}}, "best_k_metric"),
        ({"checkpoint": {"best_k_metric": 3}}, "best_k_metric"),
        ({"checkpoint": {"rollback_contents": "model"}}, "rollback_contents"),
        ({"checkpoint": {"retention": 3}}, "retention"),
        ({"checkpoint": 3}, "checkpoint"),
    ],
)
def test_what_is_off_is_named(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Policy.from_mapping(config)
    assert said in str(refused.value) and "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("train.yaml", "a: [", r"train\.yaml: cannot be read as YAML \("),
        ("train.yaml", "- 1\n", r"train\.yaml: expected keys and values"),
        ("train.yaml", None, r"train\.yaml: cannot be read as YAML \(.*No such file"),
        ("train.toml", "checkpoint: 1", r"train\.toml: cannot be read as TOML \(not TOML: .*line 1"),
        ("train.toml", "a." * 2000 + "a = 1", r"train\.toml: cannot be read as TOML \(nested more than 100 levels"),
        ("train.toml", None, r"train\.toml: cannot be read as TOML \(.*No such file"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises((UnreadableInput, UsageError), match=said) as refused:
        Policy.from_file(file)
    assert "\n" not in str(refused.value)


def test_what_is_due() -> None:
    policy = Policy(rollback_every=2, recovery_every=6)
    assert [policy.due(step) for step in range(7)] == [
        *((), (), ("rollback",), (), ("rollback",), (), ("recovery", "rollback")),
    ]
    assert Policy(rollback_every=0, recovery_every=0).due(1000) == ()


def test_names_of_the_best() -> None:
    assert Policy().best_name(450000, 2.3412) == "dev-loss-2.341-step-00450000.dcp"
    assert Policy(best_k_metric="eval/acc").best_name(5, -0.5) == "eval-acc--0.500-step-00000005.dcp"
    assert len(Policy().best_name(5, 1e300)) < 60


def test_neither_the_package_nor_the_policy_imports_torch() -> None:
    code = "import sys; from postmortem.checkpoint import Policy, manifest; Policy(); print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert ended.stdout == "False\n"
