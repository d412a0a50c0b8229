"""Every command that writes, in a stranger's run whose places are links to outside: nothing outside changes.

A place that a person names with an option is followed wherever it leads; a place that the tool chooses is not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from typer.main import get_command

from postmortem import cli
from tests.cli.conftest import Call
from tests.samples import copy_of, sample

READING = ("explain", "interventions", "checkpoints", "plan", "doctor")
"""Commands that write nothing. A command that is neither here nor in CASES fails the first test."""

REPORT = ("postmortem", "postmortem/report.md", "postmortem/diagnosis.json", "postmortem/panels")
REPLAYS = ("postmortem", "postmortem/replays")
STEPS = "--from-step 300 --until 301 --null"
STEP = "postmortem/replays/step-300-null"

# The words of a command → (the places that it writes or passes, the exit codes that are right). The run is `run`.
CASES: dict[str, tuple[tuple[str, ...], set[int]]] = {
    "draft run": ((*REPORT, "lessons.md"), {2, 4}),
    "convert run run/postmortem": (("postmortem",), {2}),
    "report run/postmortem/diagnosis.json --out run/postmortem": (REPORT[1:], {2}),
    "verify run/postmortem/diagnosis.json --change skip=312:313": (
        (*REPLAYS, "postmortem/replays/verify-312", "postmortem/replays/verify-312/remedy"),
        {4},
    ),
    "prove run": ((*REPORT, *REPLAYS, "postmortem/proof.json", "postmortem/replays/prove-312"), {2, 4}),
    "bisect run": ((*REPLAYS, "postmortem/replays/bisect-312", "postmortem/replays/bisect-312/R0"), {4}),
    f"replay run {STEPS}": ((*REPLAYS, STEP), {4}),
    "run-job job.json": ((*REPLAYS, STEP), {4}),
    "probe run 305:306 --at 300": (
        ("postmortem", "postmortem/probe", "postmortem/probe/305-306.json", "postmortem/probe/305-306.png"),
        {4},
    ),
    "diff run run --out run/diff": (("diff/diff.json", "diff/diff.png", "diff/diff.md"), {2}),
    "lab --out run --steps 20": (("rollback", "metrics", "journal.jsonl", "postmortem"), {0}),
    "test-resume a:b --keep run/test": (("test/straight", "test/killed", "test/run"), {2}),
}
PLACES = [(words, place) for words, (places, _) in CASES.items() for place in places]


def digest(folder: Path) -> dict[str, str]:
    """Each file and link below a folder, with its contents or target."""
    return {
        path.relative_to(folder).as_posix(): (
            f"to {path.readlink()}" if path.is_symlink() else sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that the commands write into it, so that each would find a place that it may replace."""
    from postmortem.cli.draft import draft

    run = copy_of("19-spike-001", tmp_path_factory.mktemp("drafted") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent)
        draft([run], lessons=run / "lessons.md")
    for name in ("step-300-null", "verify-312/remedy", "bisect-312/R0", "prove-312/R0"):
        replay = run / "postmortem" / "replays" / name
        replay.mkdir(parents=True)
        (replay / "replay.json").write_text(json.dumps({"run": "run", "out": STEP, "from_step": 300, "until": 301}))
    (run / "postmortem" / "proof.json").write_text('{"proofs": []}')
    for name in ("postmortem/probe/305-306.json", "postmortem/probe/305-306.png", "test/straight/steps.jsonl"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    for name in ("diff.json", "diff.png", "diff.md"):
        (run / "diff").mkdir(exist_ok=True)
        (run / "diff" / name).write_text('{"tool": "postmortem 0"}')
    for name in ("test/killed", "test/run"):
        (run / name).mkdir()
    return run


@pytest.fixture
def linked(tmp_path: Path, drafted: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`linked(place)`: the run `run`, whose `place` is a link to the same of another run; the folder of that one."""

    def make(place: str) -> Path:
        run, outside = tmp_path / "run", tmp_path / "outside"
        for copy in (run, outside):
            shutil.copytree(drafted, copy, symlinks=True)
        target = run / place
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        target.symlink_to(outside / place)
        spec = {"run": str(run), "out": str(run / STEP), "from_step": 300, "until": 301}
        (tmp_path / "job.json").write_text(json.dumps(spec))
        if place == "lessons.md":
            monkeypatch.chdir(run)
        return outside

    return make


def commands() -> set[str]:
    return set(get_command(cli.app).commands)  # type: ignore[attr-defined]


def test_every_command_is_here() -> None:
    writing = {words.split()[0] for words in CASES}
    assert commands() == writing | set(READING) and not writing & set(READING)


@pytest.mark.parametrize(("words", "place"), PLACES, ids=[f"{words.split()[0]} {place}" for words, place in PLACES])
def test_nothing_outside_changes(call: Call, linked: Callable[[str], Path], words: str, place: str) -> None:
    outside = linked(place)
    before = digest(outside)
    given = ["." if word == "run" and place == "lessons.md" else word for word in words.split()]
    code, _, err = call(*given)
    assert digest(outside) == before, "a link led the command outside of the run"
    assert code in CASES[words][1], err
    messages = [line for line in err.splitlines() if line.startswith("postmortem: ")]
    assert len(messages) == (code != 0) and "Traceback" not in err
    if code == 4:
        assert "leads outside the run" in messages[0]


def test_an_outcome_that_cannot_be_kept_is_a_note(call: Call, linked: Callable[[str], Path]) -> None:
    """The replay is done, and is where it was asked for: the place beside the run is no reason to lose it."""
    outside = linked("postmortem/proof.json")
    before = digest(outside)
    code, out, err = call("replay", "run", "--from-step", 300, "--until", 360, "--null", "--out", "elsewhere")
    assert code == 0 and "leads outside the run" in err and Path("elsewhere/replayed.json").is_file(), out
    assert digest(outside) == before


@pytest.mark.parametrize(
    "words", ["explain", "interventions", "checkpoints run --fast", "plan --params 7e9", "doctor run"]
)
def test_reading_commands_write_nothing(call: Call, linked: Callable[[str], Path], words: str, tmp_path: Path) -> None:
    linked("postmortem")
    before = digest(tmp_path)
    call(*words.split())
    assert digest(tmp_path) == before


def test_what_a_person_names_is_followed(call: Call, linked: Callable[[str], Path]) -> None:
    outside = linked("postmortem")
    before = digest(outside)
    assert call("draft", "run", "--out", "run/postmortem")[0] == 0
    changed = {name for name, value in digest(outside).items() if before.get(name) != value}
    assert changed <= {name for name in digest(outside) if name.startswith("postmortem/")}
    assert not [path.name for path in outside.rglob(".*") if "postmortem" in path.name]


@pytest.mark.parametrize(
    "words",
    [
        *("draft run --lessons", "draft run --out", "report run/postmortem/diagnosis.json --out", "diff run run --out"),
        *("replay run --out", "probe run 305:306 --out", "prove run --export", "lab --out", "test-resume a:b --keep"),
    ],
)
def test_a_name_of_256_bytes_is_a_wrong_name(call: Call, drafted: Path, tmp_path: Path, words: str) -> None:
    (tmp_path / "run").symlink_to(drafted)
    before = digest(drafted)
    code, _, err = call(*words.split(), "x" * 256)
    assert code == 2 and f"too long for a file. Choose another place with {words.rsplit(maxsplit=1)[-1]} " in err
    assert digest(drafted) == before and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_log_whose_folder_has_the_link(call: Call, tmp_path: Path) -> None:
    shutil.copytree(sample("19-spike-001") / "metrics", tmp_path / "logs")
    (tmp_path / "outside").mkdir()
    (tmp_path / "logs" / "part-000001.postmortem").symlink_to(tmp_path / "outside")
    code, _, err = call("draft", "logs/part-000001.parquet")
    assert code == 4 and "leads outside" in err and list((tmp_path / "outside").iterdir()) == []
