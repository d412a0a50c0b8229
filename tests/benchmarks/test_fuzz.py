"""The fuzz target reaches every reader and every command, finds what it should find, and repeats itself."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

pytest.importorskip("torch")
if sys.platform != "linux":
    pytest.skip("the fuzz target reads /proc", allow_module_level=True)
from benchmarks.fuzzing import commands, judge, readers
from benchmarks.fuzzing.corpus import corpus, write_tree
from postmortem.cli import app
from postmortem.errors import UnreadableInput
from postmortem.sources import sources
from tests.samples import ROOT

PACKAGE = ROOT / "postmortem"
OPENS = re.compile(r"open|open_\w+|read_\w+|ParquetFile|memory_map|safe_load|load_at")
SOUND = (
    "draft run --json",
    "draft run --lessons lessons.md",
    "doctor run",
    "checkpoints run",
    "diff run other --out difference",
    "diff run other --out difference",
    "verify run/postmortem/diagnosis.json --against run",
    "prove run --trust --dry-run",
    "probe run 108:110 --at 100 --trust",
    "replay run --trust --from-step 100 --until 102 --null",
    "run-job jobs/R0.json",
    "bisect run --trust --window 5:5",
    "test-resume nowhere:x --config config.json --steps 0",
    "lab --out run --steps 20",
)
"""Command lines that read what the readers do not. None trains for more than two steps."""


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), *words)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """A short campaign in two calls: (its state, what the second call printed)."""
    state = tmp_path_factory.mktemp("fuzz") / "state.json"
    for inputs, number in ((50, 2), (150, 15)):
        process = fuzz("--inputs", f"{inputs}", "--commands", f"{number}", "--seed", "5", "--state", str(state))
        assert process.returncode in (0, 1), process.stderr
    return json.loads(state.read_text()), process.stdout + process.stderr


@pytest.mark.processes
@pytest.mark.heavy
def test_a_campaign_is_continued(campaign: tuple[dict[str, Any], str]) -> None:
    state, printed = campaign
    assert "150 inputs and 15 commands of seed 5." in printed
    for kind, count in (("reader", 150), ("command", 15)):
        assert state[kind]["next"] == count
        assert sum(sum(outcomes.values()) for outcomes in state[kind]["outcomes"].values()) == count


@pytest.mark.processes
@pytest.mark.heavy
def test_a_short_campaign_finds_nothing(campaign: tuple[dict[str, Any], str]) -> None:
    """The long one is `make fuzz`."""
    assert campaign[0]["findings"] == {}, campaign[1]


ENDINGS = """
import json, os, sys, time
sys.path.insert(0, "benchmarks")
from fuzzing.isolate import Limits, run_each

def task(index):
    if index == 1:
        os.abort()
    if index == 3:
        os.open(sys.argv[1], os.O_RDONLY)
    if index == 5:
        kept = [bytearray(b"x" * 2**20) for _ in range(400)]
        time.sleep(60)
    return index

endings = run_each(range(7), task, Limits(seconds=2, growth=300 * 2**20))
print(json.dumps([[index, ending.problem, ending.result] for index, ending in endings]))
"""


@pytest.mark.processes
def test_what_kills_hangs_or_swells_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    process = subprocess.run(
        [sys.executable, "-c", ENDINGS, str(tmp_path / "fifo")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    ended = [[1, "died with 6", None], [3, "hang", None], [5, "memory", None]]
    assert json.loads(process.stdout) == sorted([*([n, "", n] for n in (0, 2, 4, 6)), *ended])


def test_an_input_depends_on_its_seed_and_number_only() -> None:
    for index in range(30):
        assert judge.reader_input(3, index) == judge.reader_input(3, index)
        assert judge.command_input(3, index) == judge.command_input(3, index)
    assert judge.reader_input(3, 1) != judge.reader_input(4, 1)


@pytest.mark.parametrize(
    ("raised", "problem"),
    [
        (KeyError("x"), "exception"),
        (MemoryError(), "exception"),
        (UnreadableInput("two\nlines"), "message: several lines"),
        (UnreadableInput("\u202e"), "message: U+202E"),
        (OSError(), ""),
    ],
)
def test_a_reader_may_refuse_in_one_line_only(raised: Exception, problem: str, tmp_path: Path) -> None:
    def read(_: Path) -> object:
        raise raised

    assert judge.read(readers.Reader("x", "csv", read, allowed=(OSError,)), tmp_path).problem == problem


def test_every_command_and_every_source_is_listed() -> None:
    names = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert {*names, "", "runs-diff"} == set(commands.commands())
    fuzzed = {reader.name for reader in readers.READERS}
    assert {f"source {source.name}" for source in sources()} <= fuzzed


def functions_that_open() -> Iterator[str]:
    """file:function of each function of the package that calls what opens or reads a file."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                called = (call.func for call in ast.walk(node) if isinstance(call, ast.Call))
                names = [getattr(function, "id", getattr(function, "attr", "")) for function in called]
                if any(map(OPENS.fullmatch, names)):
                    yield f"{file.relative_to(PACKAGE).as_posix()}:{node.name}"


def forget_what_is_kept() -> None:
    """Clear the caches of the package's functions: what an earlier test has read would not be opened again."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "postmortem"]
    for kept in (value for module in modules for value in vars(module).values() if hasattr(value, "cache_clear")):
        kept.cache_clear()


@pytest.mark.heavy
def test_every_function_that_opens_a_file_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sound files, which every reader reads; what is not reached has a reason."""
    forget_what_is_kept()
    called: dict[int, CodeType] = {}  # by identity: it is noted at every call, and a hash takes its constants, too

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called[id(frame.f_code)] = frame.f_code

    for number, reader in enumerate(readers.READERS):
        for other, tree in enumerate(readers.seeds_of(reader)[:3]):
            folder = tmp_path / f"{number}-{other}"
            write_tree(tree, folder)
            sys.setprofile(note)
            try:
                verdict = judge.read(reader, folder)
            finally:
                sys.setprofile(None)
            assert (verdict.outcome, verdict.problem) == ("read", ""), (reader.name, verdict)
    for name, tree in {"run": "recorded", "other": "csv", ".": "jobs", "./": "config"}.items():
        write_tree(corpus()[tree], tmp_path / "box" / name)
    monkeypatch.chdir(tmp_path / "box")
    for line in SOUND:
        sys.setprofile(note)
        try:
            with pytest.raises(BaseException):  # noqa: B017, PT011 - SystemExit, or an error of the package
                app(line.split(), prog_name="postmortem")
        finally:
            sys.setprofile(None)
    ours = (code for code in called.values() if code.co_filename.startswith(str(PACKAGE)))
    reached = {f"{Path(code.co_filename).relative_to(PACKAGE).as_posix()}:{code.co_name}" for code in ours}
    opening = set(functions_that_open())
    missing = sorted(opening - reached)
    unexplained = [name for name in missing if not any(fnmatch(name, pattern) for pattern in readers.EXEMPT)]
    assert not unexplained, "add a reader to benchmarks/fuzzing/readers.py, or a reason"
    gone = [pattern for pattern in readers.EXEMPT if not any(fnmatch(name, pattern) for name in opening)]
    assert not gone
