"""`runs-diff` from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from postmortem.cli import runs_diff
from tests.cli.conftest import ROOT, Call
from tests.samples import sample

CLEAN, SPIKED = sample("clean-001"), sample("19-spike-001")


@pytest.fixture
def call(outside: Callable[..., Call]) -> Call:
    """Run `runs-diff …`: (exit code, stdout, stderr)."""
    return outside(runs_diff.main, "runs-diff")


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    """Two small logs with different losses."""
    for name, level in (("a", 2), ("b", 3)):
        rows = "".join(f"{i},{level + i % 3},1e-3\n" for i in range(60))
        (tmp_path / f"{name}.csv").write_text(f"step,loss,lr\n{rows}")
    return tmp_path / "a.csv", tmp_path / "b.csv"


def test_a_pair_on_a_pipe(call: Call) -> None:
    code, out, err = call(CLEAN, SPIKED)
    assert (code, err) == (0, "") and "\x1b" not in out
    assert out.splitlines()[0].startswith("a  clean-001") and "loss spike at step 312" in out


def test_exit_code_only_where_asked_for(call: Call, logs: tuple[Path, Path]) -> None:
    a, b = logs
    assert call(a, a, "--exit-code")[0] == 0
    assert call(a, b)[0] == 0
    assert call(a, b, "--exit-code")[0] == 1
    assert call(a, a, b, "--exit-code")[0] == 1


def test_json_is_alone_on_stdout(call: Call, logs: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = logs
    code, out, err = call(a, a, "--json", "--out", "there")
    assert code == 0 and json.loads(out)["verdict"] == "identical" and err == "diff    there/diff.md\n"
    assert json.loads((tmp_path / "there" / "diff.json").read_text()) == json.loads(out)
    assert json.loads(call(a, a, b, "--json")[1])["verdicts"] == ["identical", "different"]


def test_markdown_is_a_page(call: Call, logs: tuple[Path, Path]) -> None:
    a, b = logs
    assert call(a, b, "--md")[1].startswith("# Diff of `a` and `b`\n")
    assert call(a, a, b, "--md")[1].startswith("# Runs against `a`\n")


def test_all_says_every_column(call: Call, logs: tuple[Path, Path]) -> None:
    assert "lr: equal" in call(*logs, "--all")[1]
    assert "lr: equal" not in call(*logs)[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((CLEAN,), 2, "takes two runs or more"),
        ((CLEAN, "nowhere"), 3, "nowhere: no such file or directory"),
        ((CLEAN, CLEAN, "--json", "--md"), 2, "--json and --md"),
        ((CLEAN, CLEAN, "--map", "loss"), 2, "--map"),
    ],
)
def test_mistakes_are_one_line(call: Call, words: tuple[object, ...], code: int, message: str) -> None:
    got, out, err = call(*words)
    assert (got, out) == (code, "") and message in err and err.count("\n") == 1


def test_unusual_names_are_mapped(call: Call, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("tick,misery\n" + "".join(f"{i},{2 + i % 3}\n" for i in range(60)))
    code, out, _ = call("a.csv", "b.csv", "--map", "step=tick,loss=misery", "--json")
    assert code == 0 and json.loads(out)["verdict"] == "identical"


@pytest.mark.processes
def test_neither_help_nor_diffing_imports_what_it_does_not_need() -> None:
    code = (
        "import sys\nfrom postmortem.cli.runs_diff import main\ntry:\n    main()\nfinally:\n"
        "    print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    loaded = []
    for words in (("--help",), (str(CLEAN), str(SPIKED))):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        loaded.append(set(done.stderr.split()))
    assert not loaded[0] & {"torch", "pandas", "pyarrow", "matplotlib", "numpy", "jinja2"}
    assert not loaded[1] & {"torch", "matplotlib", "pandas"}
