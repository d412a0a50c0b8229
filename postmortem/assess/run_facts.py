"""Collects the facts about the run for the head of the report: rows, steps, seed, date, segments, checkpoints."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from postmortem.diagnosis import RunFacts
from postmortem.run import Run
from postmortem.run.journal import step_number
from postmortem.run.naming import name_list
from postmortem.text import plain


def run_facts(run: Run) -> RunFacts:
    """Row counts, logging interval, seed, dtype, date, segments and checkpoints of `run`."""
    steps = run.row_steps
    manifest = run.manifest
    return RunFacts(
        run_id=plain(run.id),
        source=run.source,
        rows=int(steps.size),
        first_step=int(steps[0]) if steps.size else None,
        last_step=int(steps[-1]) if steps.size else None,
        log_every=int(np.median(np.diff(steps))) if steps.size > 1 else None,
        seed=manifest.seed,
        dtype=plain(manifest.dtype or "", 20),
        world_size=manifest.world_size,
        date=_date(run),
        resumes=_resumes(run),
        segments=tuple(_segment(s.attempt, s.first_step, s.last_step, s.discarded) for s in run.segments),
        checkpoints=tuple(f"{c.role} step {c.step}" + ("" if c.complete else " (incomplete)") for c in run.checkpoints),
        columns=tuple(plain(name, 80) for name in run.columns),
    )


def _resumes(run: Run) -> tuple[str, ...]:
    """Every resume in the journal, or else in the rows: its step, its checkpoint, and what was not restored."""
    resumes: list[str] = []
    for event in run.journal.of("resume"):
        step = step_number(event.keys.get("from_step"))
        if step is None:
            continue
        path, missing = event.keys.get("checkpoint"), event.keys.get("missing")
        details = [plain(path, 100)] if isinstance(path, str) else []
        details += [f"without {name_list(missing)}"] if isinstance(missing, list) and missing else []
        resumes.append(f"resumed from step {step}" + (f" ({', '.join(details)})" if details else ""))
    return tuple(resumes) or tuple(f"resumed from step {s.first_step}" for s in run.segments[1:])


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
