"""Replaying a recorded run in a test."""

from __future__ import annotations

from pathlib import Path

from postmortem.interventions import parse_change
from postmortem.replay.result import ReplayResult
from postmortem.replay.run_replay import replay
from postmortem.replay.spec import ReplaySpec
from postmortem.sources import open_run


def again(
    run: Path,
    out: Path,
    first: int,
    until: int,
    *changes: str,
    save_at: tuple[int, ...] = (),
    program: str | None = None,
) -> ReplayResult:
    """The steps [first, until) of `run` into `out`, under the changes."""
    made = tuple(parse_change(change) for change in changes)
    return replay(ReplaySpec(str(run), str(out), first, until, made, program=program, save_at=save_at, trusted=True))


def column(run: Path, name: str) -> dict[int, float]:
    """step → value in the effective history."""
    series = open_run(run).series(name)
    return {} if series is None else dict(zip(series.step.tolist(), series.value.tolist(), strict=True))


def hashes(run: Path) -> dict[int, str]:
    """step → hash of its batch."""
    labels = open_run(run).labels("batch_hash")
    assert labels is not None
    return dict(zip(labels.step.tolist(), map(str, labels.value), strict=True))
