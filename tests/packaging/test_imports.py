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


DOOR = """
import sys
import postmortem as pm
heavy = {"numpy", "pandas", "pyarrow", "matplotlib", "jinja2", "torch"}
dir(pm), pm.__version__
assert not heavy & set(sys.modules), "on import"
found = pm.diagnose(pm.open_run(sys.argv[1]))
pm.Recorder, pm.compare, repr(found)
assert not {"pandas", "matplotlib", "jinja2", "torch"} & set(sys.modules), "on use"
found._repr_markdown_()
assert not {"pandas", "matplotlib", "torch"} & set(sys.modules), "on display"
"""


ROOMS_ALONE = """
import sys
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
assert "postmortem.api" not in sys.modules
found = diagnose(open_run(sys.argv[1]))
assert found._repr_markdown_() is None
import postmortem.api
assert found._repr_markdown_().startswith("# ")
"""


@pytest.mark.parametrize("code", [DOOR, ROOMS_ALONE], ids=["light", "shut"])
def test_the_door(code: str, tmp_path: Path) -> None:
    """It brings what is asked for and no more; and where nobody opened it, a notebook shows one line."""
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run((sys.executable, "-c", code, SAMPLE), cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_imports_point_down_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    broken = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert not broken, capsys.readouterr().out


def test_no_circle_of_files() -> None:
    """A package's own `__init__.py` is a file as well, which the contracts leave out; CycleError names the circle."""
    graph = grimp.build_graph("postmortem", cache_dir=None)
    TopologicalSorter({file: graph.find_modules_directly_imported_by(file) for file in graph.modules}).prepare()
