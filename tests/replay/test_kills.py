"""kill -9 at random instants of recording and saving: nothing that was written is lost, and every resume is exact."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from postmortem.checkpoint.inspection import inspect
from postmortem.errors import UnreadableInput
from postmortem.sources import open_run

pytestmark = [pytest.mark.bits, pytest.mark.processes]
ROOT = Path(__file__).parent.parent.parent
Notes = list[tuple[int, str, float]]


@pytest.fixture(scope="module")
def context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["postmortem.checkpoint.checkpointer", "postmortem.lab.program"])
    return context


@pytest.fixture(scope="module")
def straight(context: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[int, str]]:
    """(digest of the final state, step → loss bits) of the run that nobody kills."""
    folder = tmp_path_factory.mktemp("straight")
    process = launch(context, folder, "straight", resume=False)
    process.join(120)
    assert process.exitcode == 0
    return (folder / "straight.end").read_text(), {step: loss for step, loss, _ in read(folder / "straight.notes")}


def launch(context: Any, folder: Path, name: str, *, resume: bool) -> Any:
    sys.path.insert(0, str(ROOT)) if str(ROOT) not in sys.path else None
    from tests.replay import kills

    process = context.Process(target=kills.train, args=(str(folder / "run"), str(folder / f"{name}.notes"), resume))
    process.start()
    return process


def read(file: Path) -> Notes:
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def killed(context: Any, folder: Path, name: str, after_s: float, *, resume: bool) -> tuple[Notes, float]:
    """Start, kill after `after_s` seconds of training; (what it had handed over, monotonic time of the kill)."""
    process = launch(context, folder, name, resume=resume)
    begun = time.monotonic()
    while not (folder / f"{name}.notes").exists() and process.is_alive() and time.monotonic() < begun + 60:
        time.sleep(0.002)
    time.sleep(after_s)
    at = time.monotonic()
    process.kill()
    process.join(60)
    assert process.exitcode in (-signal.SIGKILL, 0)
    return read(folder / f"{name}.notes"), at


def one_trial(context: Any, folder: Path, straight: tuple[str, dict[int, str]], rng: random.Random) -> None:
    from tests.replay.kills import FLUSH_S, STEPS

    final, losses = straight
    for attempt in range(2):  # the resume is killed, too
        notes, at = killed(context, folder, str(attempt), rng.uniform(0.0, 0.9), resume=attempt > 0)
        old = {step: loss for step, loss, when in notes if when < at - FLUSH_S}
        try:
            run = open_run(folder / "run")
        except UnreadableInput as error:
            assert not old, f"unreadable after {len(notes)} rows: {error}"
            continue
        recorded = run.series("loss")
        assert recorded is not None
        rows = dict(zip(recorded.step.tolist(), recorded.value.tolist(), strict=True))
        assert not [step for step in old if step not in rows]
        assert all(value.hex() == losses[step] for step, value in rows.items())
        latest = folder / "run" / "latest"
        if latest.is_symlink():
            found = inspect(latest.resolve(strict=True))
            assert found.complete, found
            assert not found.problems, found.problems
    process = launch(context, folder, "end", resume=True)
    process.join(120)
    assert process.exitcode == 0
    assert (folder / "end.end").read_text() == final
    series = open_run(folder / "run").series("loss")
    assert series is not None
    assert series.step.tolist() == list(range(STEPS))
    assert [value.hex() for value in series.value.tolist()] == [losses[step] for step in range(STEPS)]
    assert not list((folder / "run").glob("*/.*tmp*")), "a save that was cut short was not cleaned up"


def trials(context: Any, tmp_path: Path, straight: tuple[str, dict[int, str]], count: int) -> None:
    for number in range(count // 2):  # two kills a trial
        folder = tmp_path / str(number)
        folder.mkdir()
        one_trial(context, folder, straight, random.Random(f"kill:{number}"))


def test_ten_kills(context: Any, tmp_path: Path, straight: tuple[str, dict[int, str]]) -> None:
    trials(context, tmp_path, straight, 10)


@pytest.mark.slow
def test_two_hundred_kills(context: Any, tmp_path: Path, straight: tuple[str, dict[int, str]]) -> None:
    trials(context, tmp_path, straight, 200)
