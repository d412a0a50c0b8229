"""Replays a recorded run in a test."""

from __future__ import annotations

from pathlib import Path

from postmortem.interventions import parse_change
from postmortem.replay.run_replay import replay
from postmortem.replay.spec import ReplaySpec
from postmortem.run.replayed import ReplayResult


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
    parsed = tuple(parse_change(change) for change in changes)
    return replay(ReplaySpec(str(run), str(out), first, until, parsed, program=program, save_at=save_at, trusted=True))
