"""A few of the kills and interrupts of `make kills`, at moments that a seed chooses."""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.samples import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")]


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    """benchmarks/kills.py, whose modules import each other by their bare names."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("kills")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


KILLS = [("recorder", 1), ("draft", 0), ("draft", 3)]


@pytest.mark.parametrize(("name", "seed"), KILLS)
def test_a_kill(kills: ModuleType, tmp_path: Path, name: str, seed: int) -> None:
    case = next(case for case in kills.CASES if case.name == name)
    row = kills.kill(case, seed, "", tmp_path / "place")
    assert row.ended == -signal.SIGKILL and row.problems == ""


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("name", ["interrupt at start", "interrupt at work"])
def test_an_interrupt(kills: ModuleType, tmp_path: Path, name: str, seed: int) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that it is ignored
    try:
        row = kills.interrupt(name, seed, "", tmp_path / "place")
    finally:
        signal.signal(signal.SIGINT, before)
    assert row.problems in ("", *kills.EARLY)
    assert (row.ended, row.lines) == (130, 1) or row.problems


def test_a_kill_that_loses_something_is_seen(kills: ModuleType, tmp_path: Path) -> None:
    """What the checks are worth: a writer that does not write whole files."""
    torn = (
        "import time\nfor part in ('one\\n', 'tw', 'o\\n'):\n    open('lessons.md', 'a').write(part)\n    time.sleep(1)"
    )
    case = kills.Case(
        "lessons",
        1,
        lambda: [(sys.executable, "-c", torn)],
        lambda folder: None,
        importlib.import_module("_kill_cases")._check_lessons,
    )
    row = kills.kill(case, 1, "", tmp_path / "place")
    assert "earlier lines are lost" in row.problems
