"""What starting the tool pulls in, and which rooms may know which."""

from __future__ import annotations

import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

from tests.samples import ROOT, sample

pytestmark = pytest.mark.processes
SAMPLE = sample("19-spike-001")
WATCHED = """
import sys
from postmortem.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def modules_after(*words: str, cwd: Path) -> set[str]:
    """Top-level names of all modules that `postmortem WORDS` ends with."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-c", WATCHED, *words)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


DIAGNOSING, DRIVING = ("draft", "verify", "report", "diff"), ("replay", "prove", "bisect", "test-resume", "lab")
HELPED = ((), *((command,) for command in (*DIAGNOSING, *DRIVING, "checkpoints", "plan", "doctor")))


@pytest.mark.parametrize("words", [(*words, "--help") for words in HELPED])
def test_help_is_light(words: tuple[str, ...], tmp_path: Path) -> None:
    assert not modules_after(*words, cwd=tmp_path) & {"torch", "pandas", "matplotlib", "pyarrow", "jinja2"}


@pytest.mark.parametrize(
    "words",
    [
        ("draft", str(SAMPLE), "--out", "out"),
        ("draft", str(SAMPLE), "--out", "out", "--baseline", str(SAMPLE)),
        ("explain", "bit_flip"),
        ("diff", str(SAMPLE), str(SAMPLE)),
    ],
)
def test_diagnosing_needs_no_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    assert "torch" not in modules_after(*words, cwd=tmp_path)


def test_imports_point_down_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    broken = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert not broken, capsys.readouterr().out


def test_no_circle_of_files() -> None:
    """A package's own `__init__.py` is a file as well, which the contracts leave out; CycleError names the circle."""
    graph = grimp.build_graph("postmortem", cache_dir=None)
    TopologicalSorter({file: graph.find_modules_directly_imported_by(file) for file in graph.modules}).prepare()
