"""The policy and its YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from postmortem.checkpoint.policy import Policy
from postmortem.errors import PostmortemError, UnreadableInput, UsageError

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
    assert Policy.from_yaml(file) == Policy()
    file.write_text(SEED.replace("100\n", "50\n").replace("_keep: 5", "_keep: 7") + "model: {width: 8}\n")
    assert Policy.from_yaml(file) == Policy(rollback_every=50, rollback_keep=7)


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


@pytest.mark.parametrize("text", ["a: [", "- 1\n", None])
def test_a_file_that_is_none(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "train.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PostmortemError) as refused:
        Policy.from_yaml(file)
    assert isinstance(refused.value, (UnreadableInput, UsageError)) and str(file) in str(refused.value)


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
