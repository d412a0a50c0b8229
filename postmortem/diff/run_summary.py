"""Summarizes each of the two runs, and collects what happened to only one of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from postmortem.assess.detection import detect
from postmortem.diff import events, lineage
from postmortem.diff.level import Band, recovery_step, smooth, thinned
from postmortem.diff.model import Recovery, Rewind, RunSummary
from postmortem.diff.pair import Curve, Pair
from postmortem.diff.verdict import OneRunOnly
from postmortem.run import Run
from postmortem.text import count, plain

MOST_LINES = 4  # rewinds of one run among the first facts
_NO_LIMIT = 2**62


def summarize_both(pair: Pair, *, same: bool) -> tuple[RunSummary, RunSummary]:
    """The summaries of a and b. `same`: both histories have the same bits, so one search for incidents is enough."""
    detected_a = detect(pair.a)
    alike = same and pair.a.columns == pair.b.columns and pair.a.segments == pair.b.segments
    alike &= np.array_equal(pair.a.row_steps, pair.b.row_steps) and not any(s.discarded for s in pair.a.segments)
    detected_b = detected_a if alike else detect(pair.b)
    a, b = _summary(pair.a, pair.b), _summary(pair.b, pair.a)
    incidents_a = events.diff_incidents(events.of_the_run(detected_a, a.discarded))
    incidents_b = events.diff_incidents(events.of_the_run(detected_b, b.discarded))
    row_step = max(a.row_step, b.row_step)
    return (
        dataclasses.replace(a, incidents=events.mark_shared(incidents_a, incidents_b, row_step)),
        dataclasses.replace(b, incidents=events.mark_shared(incidents_b, incidents_a, row_step)),
    )


def one_run_only(letter: str, run: RunSummary, sibling: RunSummary) -> OneRunOnly:
    """What happened to `run` and not to `sibling`."""
    shared = {(s.attempt, s.first_step, s.last_step) for s in sibling.discarded}
    return OneRunOnly(
        letter,
        tuple(i for i in run.incidents if not i.shared),
        tuple(r for r in run.rewinds if not _among(r, sibling.rewinds)),
        discarded=any((s.attempt, s.first_step, s.last_step) not in shared for s in run.discarded),
        skipped=not set(run.skipped) <= set(sibling.skipped),
    )


def with_recoveries(run: Run, summary: RunSummary, only: OneRunOnly, curve: Curve, noise: Band) -> RunSummary:
    """The summary with the time from each rollback and loss incident of only this run to the other run's level.

    Each event is followed until the next one, which may have its own effect.
    """
    seconds = events.seconds_per_step(run)
    begins = [("rollback", r.step) for r in only.rewinds if r.kind == "rollback" or r.skip]
    begins += [("incident", i.onset_step) for i in only.incidents if i.on_loss and not i.discarded]
    begins.sort(key=lambda begin: begin[1])
    recoveries: list[Recovery] = []
    for n, (event, first) in enumerate(begins):
        until = begins[n + 1][1] if n + 1 < len(begins) else _NO_LIMIT
        step = recovery_step(curve, noise, first, until)
        if step == first and event == "incident":  # too short for a level to show it: the loss itself shows it
            step = next((i.recovery_step for i in only.incidents if i.onset_step == first and i.on_loss), None)
        hours = None if step is None or seconds is None else (step - first) * seconds / 3600
        recoveries.append(Recovery("rollback" if event == "rollback" else "incident", first, step, hours))
    return dataclasses.replace(summary, recoveries=tuple(recoveries))


def top_lines(a: RunSummary, b: RunSummary, one_sided: tuple[OneRunOnly, OneRunOnly]) -> tuple[str, ...]:
    """Resumes and rollbacks: first those of both runs, then those of only one run."""
    letters = {b.id: "b", a.id: "a"}
    lines = _rewind_lines([r for r in a.rewinds if _among(r, b.rewinds)], "both", {})
    for only in one_sided:
        lines += _rewind_lines(only.rewinds, only.letter, letters)
    return tuple(lines)


def nonfinite_lines(a: RunSummary, b: RunSummary) -> tuple[str, ...]:
    """The numbers of non-finite losses, which no gap shows."""
    return tuple(
        f"{count(run.nonfinite_losses, 'loss')} of {letter} {'is' if run.nonfinite_losses == 1 else 'are'} not finite"
        for letter, run in (("a", a), ("b", b))
        if run.nonfinite_losses
    )


def _rewind_lines(rewinds: list[Rewind] | tuple[Rewind, ...], letter: str, letters: dict[str, str]) -> list[str]:
    lines = [lineage.rewind_line(rewind, letter, letters) for rewind in rewinds[:MOST_LINES]]
    rest = len(rewinds) - MOST_LINES
    if rest > 0:
        lines.append(f"{letter}: {rest} more {'resume or rollback' if rest == 1 else 'resumes or rollbacks'}")
    return lines


def _among(rewind: Rewind, rewinds: tuple[Rewind, ...]) -> bool:
    """Whether `rewinds` of another run contain the same one; the run that it continues does not matter."""
    return any(dataclasses.replace(candidate, parent=rewind.parent) == rewind for candidate in rewinds)


def _summary(run: Run, sibling: Run) -> RunSummary:
    rewinds = lineage.rewinds(run)
    skipped = lineage.skipped_windows(run, rewinds)
    stretches = events.discarded_stretches(run)
    steps, loss = run.row_steps, run.series("loss")
    return RunSummary(
        id=plain(run.id),
        source=plain(run.source),
        rows=int(steps.size),
        first_step=int(steps[0]) if steps.size else None,
        last_step=int(steps[-1]) if steps.size else None,
        row_step=max(1, int(np.median(np.diff(steps)))) if steps.size > 1 else 1,
        seed=run.manifest.seed,
        attempts=len(run.segments),
        rewinds=rewinds,
        skipped=skipped,
        skipped_at=tuple(lineage.consumed_at(window, (run, sibling)) for window in skipped),
        moved=lineage.changed_settings(run),
        incidents=(),
        discarded=stretches,
        lost=events.lost_work(run, stretches, skipped),
        recoveries=(),
        nonfinite_losses=0 if loss is None else int((~np.isfinite(loss.value)).sum()),
        loss=None if loss is None else thinned("loss", loss.step, loss.value),
        smoothed=None if loss is None else smooth(loss.step, loss.value),
    )
