"""What the tool imports when it starts, and which rooms may import which."""

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
RUN_AND_LIST_MODULES = """
import sys
from postmortem.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def python(code: str, *arguments: str | Path, cwd: Path) -> str:
    """Standard error of `code`, run by a new interpreter that must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-c", code, *arguments)
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stderr


def modules_after(*words: str, cwd: Path) -> set[str]:
    """Top-level names of all modules that are loaded when `postmortem WORDS` ends."""
    return set(python(RUN_AND_LIST_MODULES, *words, cwd=cwd).splitlines()[-1].split())


DIAGNOSING, DRIVING = (
    ("draft", "verify", "report", "diff", "explain", "convert"),
    ("replay", "run-job", "probe", "interventions", "prove", "bisect", "test-resume", "lab"),
)
HELPED = ((), *((command,) for command in (*DIAGNOSING, *DRIVING, "checkpoints", "plan", "doctor")))


@pytest.mark.parametrize("words", [(*words, "--help") for words in HELPED])
def test_help_is_light(words: tuple[str, ...], tmp_path: Path) -> None:
    heavy = {"torch", "pandas", "matplotlib", "pyarrow", "jinja2", "numpy", "rich"}
    assert not modules_after(*words, cwd=tmp_path) & heavy


def test_a_pipe_needs_no_rich(tmp_path: Path) -> None:
    """What is neither wrapped nor styled."""
    assert "rich" not in modules_after("explain", cwd=tmp_path)


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


IMPORT_ON_USE = """
import sys
import postmortem as pm
heavy = {"numpy", "pandas", "pyarrow", "matplotlib", "jinja2", "torch"}
dir(pm), pm.__version__
assert not heavy & set(sys.modules), "on import"
diagnosis = pm.diagnose(pm.open_run(sys.argv[1]))
pm.Recorder, pm.compare, repr(diagnosis)
assert not {"pandas", "matplotlib", "jinja2", "torch"} & set(sys.modules), "on use"
diagnosis._repr_markdown_()
assert not {"pandas", "matplotlib", "torch"} & set(sys.modules), "on display"
"""


ROOMS_WITHOUT_API = """
import sys
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
assert "postmortem.api" not in sys.modules
diagnosis = diagnose(open_run(sys.argv[1]))
assert diagnosis._repr_markdown_() is None
import postmortem.api
assert diagnosis._repr_markdown_().startswith("# ")
"""


@pytest.mark.parametrize("code", [IMPORT_ON_USE, ROOMS_WITHOUT_API], ids=["on use", "without api"])
def test_import_of_the_package(code: str, tmp_path: Path) -> None:
    """`import postmortem` loads a room when its name is used. Without `postmortem.api`, a notebook shows a repr."""
    python(code, SAMPLE, cwd=tmp_path)


def test_imports_point_down_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    broken = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert not broken, capsys.readouterr().out


def test_no_circle_of_files() -> None:
    """The contracts leave out a package's own `__init__.py`, which is a file as well. CycleError names the circle."""
    graph = grimp.build_graph("postmortem", cache_dir=None)
    TopologicalSorter({file: graph.find_modules_directly_imported_by(file) for file in graph.modules}).prepare()
