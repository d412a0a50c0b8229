"""What was announced is what is imported, whatever becomes of the run's files in between."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.cli import _program
from tests.cli.conftest import Call, in_a_process
from tests.replays import Driver

pytestmark = pytest.mark.heavy

PROVE = ("prove", "run", "--trust")
COMMANDS = {
    "prove": PROVE,
    "bisect": ("bisect", "run", "--trust", "--window", "109:111", "--no-rows"),
    "replay": ("replay", "run", "--trust", "--until", "112"),
    "probe": ("probe", "run", "109:111", "--at", "100", "--trust"),
    "run-job": ("run-job", "jobs/R0.json", "--trust"),
    "verify": ("verify", "run/postmortem/diagnosis.json", "--trust", "--change", "noise=1"),
}
SOUND = "from tests.replay.rogue_program import build\n"


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What exists after a hostile module was imported: `evil`, or `mine` with the hostile text."""
    trace = tmp_path / "imported"
    (tmp_path / "evil.py").write_text(hostile(trace))
    (tmp_path / "mine.py").write_text(SOUND)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield trace
    for name in ("evil", "mine"):
        sys.modules.pop(name, None)


def hostile(trace: Path) -> str:
    return f"open({str(trace)!r}, 'a').write('x')\n{SOUND}"


def name_program(run: Path, name: str) -> None:
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "program": name}))


def swap_when_announced(monkeypatch: pytest.MonkeyPatch, swap: Callable[[], object]) -> list[str]:
    """Do `swap` when the import is announced; the texts that were announced."""
    announced: list[str] = []
    show = _program.print_labeled

    def shown(label: str, text: str, *, err: bool = False) -> None:
        show(label, text, err=err)
        if label == "imports":
            announced.append(text)
            swap()

    monkeypatch.setattr(_program, "print_labeled", shown)
    return announced


def prepare(call: Call, command: str, run: Path) -> None:
    """What `command` starts from."""
    name_program(run, "mine:build")
    if command == "verify":
        assert call("draft", "run")[0] == 0
    if command == "run-job":
        assert call(*PROVE, "--export", "jobs")[0] == 0
    sys.modules.pop("mine", None)


@pytest.mark.usefixtures("in_process")
class TestSwapped:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_run_json(
        self, call: Call, rogue_run: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        prepare(call, command, rogue_run)
        announced = swap_when_announced(monkeypatch, lambda: name_program(rogue_run, "evil:build"))
        code, _, err = call(*COMMANDS[command])
        assert code in (0, 1), err
        assert [text.split()[0] for text in announced] == ["mine:build"]
        assert "mine" in sys.modules and "evil" not in sys.modules and not imported.exists()

    @pytest.mark.parametrize("command", COMMANDS)
    def test_the_text_of_the_program(
        self, call: Call, rogue_run: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        prepare(call, command, rogue_run)
        mine = Path("mine.py").resolve()
        swap_when_announced(monkeypatch, lambda: mine.write_text(hostile(imported)))
        code, _, err = call(*COMMANDS[command])
        assert code == 2 and "the program 'mine:build' is not what was announced" in err, err
        assert err.count("Start the command again") == 1 and not imported.exists()

    def test_its_place(
        self, call: Call, rogue_run: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, in_process: Driver
    ) -> None:
        """Another module of that name, which an import finds first."""
        prepare(call, "prove", rogue_run)
        elsewhere = Path("elsewhere").resolve()
        elsewhere.mkdir()
        Path("mine.py").rename(elsewhere / "mine.py")
        monkeypatch.syspath_prepend(elsewhere)
        swap_when_announced(monkeypatch, lambda: Path("mine.py").write_text(SOUND))
        code, _, err = call(*PROVE)
        assert code == 2 and "is not what was announced" in err and "mine" not in sys.modules
        assert in_process.driven == ["R0"]


@pytest.mark.processes
def test_the_processes_of_an_experiment_import_what_was_announced(
    rogue_run: Path, imported: Path, tmp_path: Path
) -> None:
    """They start after the announcement, and read the run by themselves."""
    name_program(rogue_run, "mine:build")
    hook = """
import json, sys
from pathlib import Path
from postmortem import cli
from postmortem.cli import _program
show = _program.print_labeled
def shown(label, text, **more):
    show(label, text, **more)
    if label == "imports":
        raw = json.loads(Path("run/run.json").read_text())
        Path("run/run.json").write_text(json.dumps({**raw, "program": "evil:build"}))
_program.print_labeled = shown
cli.main()
"""
    (tmp_path / "hooked.py").write_text(hook)
    code, out, err = in_a_process(tmp_path, *COMMANDS["bisect"], module="hooked")
    assert code == 0 and not imported.exists(), err
    assert "imports mine:build" in err and "--skip 110:111" in out
