"""Judges two runs over the steps that both have: identical, prefix, equivalent, transient, recovered, lingering or
different.

    identical     every common column except the clocks has the same bits at the same steps
    prefix        the same, and one run ends earlier: it is the first rows of the other
    equivalent    every level of the loss and its end are within the noise, and nothing happened to the loss of only one
                  run
    transient     something did happen (an incident, a resume that lost a part), passed by itself, and the end is within
                  the band
    recovered     the same, after a rollback or skipped batches
    lingering     something did happen, and the end has settled outside the band
    different     everything else: a difference before anything happened, an unexplained difference, an end that is not
                  finite or not settled, no loss to judge by, or no common step

If one run ends earlier, the runs are at best a prefix, unless one continues the other by lineage: then only the common
steps can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from postmortem.diff.caveats import StepMismatch
from postmortem.diff.level import nats
from postmortem.diff.model import ColumnDiff, DiffIncident, Gap, Rewind, Verdict
from postmortem.text import count

_UNSETTLED = ("diverged", "unresolved")


@dataclass(frozen=True)
class OneRunOnly:
    """What happened to only one of the runs: incidents, rewinds, rolled-back steps, skipped batches."""

    letter: str
    incidents: tuple[DiffIncident, ...]
    rewinds: tuple[Rewind, ...]
    discarded: bool
    skipped: bool

    @property
    def first_step(self) -> int | None:
        """The first step of the effective history at which something happened."""
        steps = [i.onset_step for i in self.incidents if not i.discarded] + [r.step for r in self.rewinds]
        return min(steps, default=None)

    @property
    def to_loss(self) -> bool:
        """Whether something happened that affects the loss."""
        rolled_back = any(r.kind == "rollback" for r in self.rewinds)
        return rolled_back or self.skipped or any(i.on_loss for i in self.incidents)

    @property
    def anything(self) -> bool:
        """Whether something happened at all."""
        incomplete = any(r.missing or r.altered or r.changes for r in self.rewinds)
        return bool(self.incidents) or self.discarded or incomplete or self.to_loss

    @property
    def repaired(self) -> bool:
        """Whether the run went back, or skipped batches: what happened did not pass by itself."""
        return self.discarded or self.skipped or any(r.kind == "rollback" or r.parent for r in self.rewinds)

    @property
    def unsettled(self) -> bool:
        """Whether a loss incident of the effective history never settled."""
        return any(i.on_loss and not i.discarded and i.outcome in _UNSETTLED for i in self.incidents)


def judge(
    columns: Sequence[ColumnDiff],
    steps: int,
    mismatch: StepMismatch,
    gap: Gap | str,
    one_sided: Sequence[OneRunOnly],
) -> tuple[Verdict, str]:
    """The verdict and its reason.

    `steps` is the number of common steps; `gap` is the gap of the loss by step, or the reason why there is none.
    """
    if not steps:
        return "different", "the runs have no step in common"
    if columns and all(column.equal for column in columns) and not mismatch.holes:
        same = f"the same bits in {count(len(columns), 'common column')} and {count(steps, 'common step')}"
        if mismatch.ends and mismatch.first_rows:
            return "prefix", f"{mismatch.first_rows}: {mismatch.ends}; {same}"
        return ("different", f"{mismatch.ends}; {same}") if mismatch.ends else ("identical", same)
    if isinstance(gap, str):
        return "different", f"bits differ, and the loss cannot be compared: {gap}"
    return _judge_loss(gap, mismatch, one_sided, same_values=not any(column.differing for column in columns))


def _judge_loss(
    gap: Gap, mismatch: StepMismatch, one_sided: Sequence[OneRunOnly], *, same_values: bool
) -> tuple[Verdict, str]:
    if math.isnan(gap.final):
        return "different", "the loss of one run is non-finite at the end"
    noise = f"the noise of ±{nats(gap.noise.end)}"
    inside = abs(gap.final) <= gap.noise.end
    if inside and not gap.outside and not any(only.to_loss for only in one_sided):
        bands = f"medians of {count(gap.noise.rows, 'row')} ±{nats(gap.noise.band)}, end ±{nats(gap.noise.end)}"
        same = f"the loss is within the noise throughout ({bands})"
        if same_values:
            same = "no value differs that both logged, but they did not log the same rows and columns"
        return ("different", f"{mismatch.ends}; {same}") if mismatch.ends else ("equivalent", same)
    end = f"b ends {nats(abs(gap.final))} nats {'below' if gap.final < 0 else 'above'} a"
    letters = [only.letter for only in one_sided if only.anything]
    runs, has = " and ".join(letters), "has" if len(letters) == 1 else "have"
    if gap.before is not None and abs(gap.before) > gap.before_noise:
        distance = f"{nats(abs(gap.before))} nats apart before anything happened"
        return "different", f"{distance}, outside the noise of ±{nats(gap.before_noise)}"
    if not letters:
        levels = f"{count(gap.levels, 'level')} (medians of {count(gap.noise.rows, 'row')})"
        outside = f"{gap.outside} of {levels} are outside the noise"
        difference = outside if inside else f"{end}, outside {noise}"
        return "different", f"{difference}, and no event in only one run explains it"
    if inside:
        return _judge_return(one_sided, f"{end}, within {noise}")
    if any(only.unsettled for only in one_sided):
        return "different", f"{runs} {has} not settled: {end}, outside {noise}"
    return "lingering", f"what happened in {runs} still has an effect: {end}, outside {noise}"


def _judge_return(one_sided: Sequence[OneRunOnly], end: str) -> tuple[Verdict, str]:
    """The verdict on runs that end at the same level after something happened: was it repaired, or did it pass?"""
    repaired = [only.letter for only in one_sided if only.repaired]
    passed = [only.letter for only in one_sided if only.anything and not only.repaired]
    by_itself = f"what happened in {' and '.join(passed)} passed by itself"
    if not repaired:
        return "transient", f"{by_itself}: {end}"
    has = "has" if len(repaired) == 1 else "have"
    recovered = f"{' and '.join(repaired)} {has} recovered by going back or skipping batches"
    return "recovered", f"{recovered}{f', and {by_itself}' if passed else ''}: {end}"
