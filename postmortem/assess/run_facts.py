"""Collects the facts about the run for the head of the report: rows, steps, seed, date, segments, checkpoints."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import numpy as np

from postmortem.diagnosis import RunFacts
from postmortem.run import Run
from postmortem.run.event_text import dated
from postmortem.run.journal import KINDS
from postmortem.run.response import actions
from postmortem.run.timeline import Timeline, ended_badly
from postmortem.stats import median
from postmortem.text import plain

_TOLD_ELSEWHERE = {"run_start", "reopen", "rollback", "resume", "checkpoint", "checkpoint_deleted"}
_TOLD = tuple(name for name in KINDS if name not in _TOLD_ELSEWHERE)  # the others are segments, resumes, checkpoints
_SHOWN, _MOST_EVENTS = 3, 1_000  # events of one kind that are listed, and that are read


def run_facts(run: Run) -> RunFacts:
    """Row counts, logging interval, seed, dtype, date, segments and checkpoints of `run`."""
    steps = run.row_steps
    manifest = run.manifest
    timeline = Timeline(run.journal, run.segments)
    resumes = _resumes(run, timeline)
    return RunFacts(
        run_id=plain(run.id),
        source=run.source,
        rows=int(steps.size),
        first_step=int(steps[0]) if steps.size else None,
        last_step=int(steps[-1]) if steps.size else None,
        log_every=int(median(np.diff(steps))) if steps.size > 1 else None,
        seed=manifest.seed,
        dtype=plain(manifest.dtype or "", 20),
        world_size=manifest.world_size,
        date=_date(run),
        resumes=tuple(text for text, _ in resumes),
        resume_attempts=tuple(attempt for _, attempt in resumes),
        segments=tuple(_segment(s.attempt, s.first_step, s.last_step, s.discarded) for s in run.segments),
        checkpoints=tuple(f"{c.role} step {c.step}" + ("" if c.complete else " (incomplete)") for c in run.checkpoints),
        columns=tuple(plain(name, 80) for name in run.columns),
        events=_events(timeline),
    )


def _resumes(run: Run, timeline: Timeline) -> list[tuple[str, int]]:
    """Every resume and rollback of the journal, or else of the rows: (step, checkpoint, and what was not restored; the
    attempt that it began)."""
    rewinds = (entry for entry in timeline.of("rollback", "resume") if entry.step is not None)
    journaled = [(action.text, action.attempt) for action in actions(rewinds)]
    first = min((s.first_step for s in run.segments), default=0)
    return journaled or [
        (f"{'started again' if s.first_step <= first else 'resumed'} from step {s.first_step}", s.attempt)
        for s in run.segments[1:]
    ]


def _events(timeline: Timeline) -> tuple[str, ...]:
    """What else the journal says of the run, in its order: of each kind of event the first few, and how many more."""
    listed: list[tuple[int, str]] = []
    for name in (*_TOLD, ""):
        entries = list(islice(timeline.of(name) if name else timeline.of(), _MOST_EVENTS))
        if name == "run_end":
            entries = [entry for entry in entries if ended_badly(entry.event)]
        shown, rest = entries[:_SHOWN], entries[_SHOWN:]
        listed += [(entry.position, dated(entry.event, entry.step)) for entry in shown]
        if rest:
            more = f"{len(rest):,}" if len(entries) < _MOST_EVENTS else f"{len(rest):,} or more"
            listed.append((shown[-1].position, f"and {more} further events of this kind"))
    return tuple(text for _, text in sorted(listed, key=lambda item: item[0]))


def _segment(attempt: int, first: int, last: int, discarded: bool) -> str:
    return f"attempt {attempt}: steps {first}–{last}" + (", rolled back later" if discarded else "")


def _date(run: Run) -> str:
    """The day on which the run ended, from its journal or its `time` column; "" where neither has a time."""
    times = [] if run.journal.last_time is None else [run.journal.last_time]
    if not times:
        clock = run.series("time")
        times = [] if clock is None else [float(clock.value[-1])]
    try:
        return datetime.fromtimestamp(max(times), UTC).date().isoformat() if times else ""
    except (ValueError, OverflowError, OSError):
        return ""
