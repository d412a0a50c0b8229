"""Each of the two runs as the report tells of it, and what it met alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from postmortem.diff import events, lineage
from postmortem.diff.level import Band, back, smooth, thinned
from postmortem.diff.model import Recovery, Rewind, RunSummary
from postmortem.diff.pair import Curve, Pair
from postmortem.diff.verdict import OneRunOnly
from postmortem.pipeline import detect
from postmortem.run import Run
from postmortem.text import plain

MOST_TOLD = 4  # rewinds of one run among the first facts
_AFTER_ALL = 2**62


def both(pair: Pair, *, same: bool) -> tuple[RunSummary, RunSummary]:
    """The sides of a and b. `same`: the histories hold the same bits, so that one search for incidents will do."""
    seen_a = detect(pair.a)
    alike = same and pair.a.columns == pair.b.columns and pair.a.segments == pair.b.segments
    alike &= np.array_equal(pair.a.row_steps, pair.b.row_steps) and not any(s.discarded for s in pair.a.segments)
    seen_b = seen_a if alike else detect(pair.b)
    found_a, found_b = events.found(seen_a), events.found(seen_b)
    a, b = _side(pair.a, pair.b), _side(pair.b, pair.a)
    row_step = max(a.row_step, b.row_step)
    return (
        dataclasses.replace(a, incidents=events.shared(found_a, found_b, row_step)),
        dataclasses.replace(b, incidents=events.shared(found_b, found_a, row_step)),
    )


def alone(letter: str, side: RunSummary, other: RunSummary) -> OneRunOnly:
    """What `side` met and `other` did not."""
    theirs = {(s.attempt, s.first_step, s.last_step) for s in other.discarded}
    return OneRunOnly(
        letter,
        tuple(i for i in side.incidents if not i.shared),
        tuple(r for r in side.rewinds if not _among(r, other.rewinds)),
        discarded=any((s.attempt, s.first_step, s.last_step) not in theirs for s in side.discarded),
        skipped=not set(side.skipped) <= set(other.skipped),
    )


def recovered(run: Run, side: RunSummary, one: OneRunOnly, curve: Curve, noise: Band) -> RunSummary:
    """The side with the time that each rollback and each loss incident of its own took to be back at the other's level.

    Each is followed to the next one: what came later is not its doing.
    """
    seconds = events.seconds_per_step(run)
    begun = [("rollback", r.step) for r in one.rewinds if r.kind == "rollback" or r.skip]
    begun += [("incident", i.onset_step) for i in one.incidents if i.on_loss and not i.discarded]
    begun.sort(key=lambda each: each[1])
    found: list[Recovery] = []
    for n, (what, first) in enumerate(begun):
        until = begun[n + 1][1] if n + 1 < len(begun) else _AFTER_ALL
        at = back(curve, noise, first, until)
        if at == first and what == "incident":  # too short for a level to notice: the loss itself says when
            at = next((i.recovery_step for i in one.incidents if i.onset_step == first and i.on_loss), None)
        hours = None if at is None or seconds is None else (at - first) * seconds / 3600
        found.append(Recovery("rollback" if what == "rollback" else "incident", first, at, hours))
    return dataclasses.replace(side, recoveries=tuple(found))


def top_lines(a: RunSummary, b: RunSummary, lone: tuple[OneRunOnly, OneRunOnly]) -> tuple[str, ...]:
    """Resumes and rollbacks, those of both first, then those of one run alone."""
    letters = {b.id: "b", a.id: "a"}
    lines = _told([r for r in a.rewinds if _among(r, b.rewinds)], "both", {})
    for one in lone:
        lines += _told(one.rewinds, one.letter, letters)
    return tuple(lines)


def ends(a: RunSummary, b: RunSummary) -> tuple[str, ...]:
    """Losses that are not finite, which are no gap and would otherwise go unsaid."""
    return tuple(
        f"{side.nonfinite_losses:,} losses of {letter} are not finite"
        for letter, side in (("a", a), ("b", b))
        if side.nonfinite_losses
    )


def _told(rewinds: list[Rewind] | tuple[Rewind, ...], who: str, letters: dict[str, str]) -> list[str]:
    lines = [lineage.told(rewind, who, letters) for rewind in rewinds[:MOST_TOLD]]
    more = len(rewinds) - MOST_TOLD
    return [*lines, f"{who}: {more} more resumes or rollbacks"] if more > 0 else lines


def _among(rewind: Rewind, others: tuple[Rewind, ...]) -> bool:
    """Whether another run tells of the same one; from which run it went on does not matter."""
    return any(dataclasses.replace(other, parent=rewind.parent) == rewind for other in others)


def _side(run: Run, other: Run) -> RunSummary:
    told = lineage.rewinds(run)
    skipped = lineage.skipped(run, told)
    stretches = events.discarded(run)
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
        rewinds=told,
        skipped=skipped,
        skipped_at=tuple(lineage.consumed_at(window, (run, other)) for window in skipped),
        moved=lineage.moved(run),
        incidents=(),
        discarded=stretches,
        lost=events.lost(run, stretches, skipped),
        recoveries=(),
        nonfinite_losses=0 if loss is None else int((~np.isfinite(loss.value)).sum()),
        loss=None if loss is None else thinned("loss", loss.step, loss.value),
        smoothed=None if loss is None else smooth(loss.step, loss.value),
    )
