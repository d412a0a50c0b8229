"""The verdict on two runs, over the steps that both have.

    identical     every common column but the clocks holds the same bits at the same steps
    equivalent    every level of the loss and its end lie within the noise, and nothing happened to one loss alone
    recovered     something did (an incident, a rollback, skipped batches), and the end lies within the band
    lingering     something did, and the end has settled outside the band
    different     all else: apart before anything happened, apart with nothing that explains it, an end that is not
                  finite or not settled, no loss to judge by, or no common step

Two runs of which one ends earlier are neither identical nor equivalent, unless one goes on from the other by lineage:
then the steps that both have are all there is to compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from postmortem.diff.caveats import Unequal
from postmortem.diff.level import nats
from postmortem.diff.model import ColumnDiff, DiffIncident, Gap, Rewind, Verdict

_UNSETTLED = ("diverged", "unresolved")


@dataclass(frozen=True)
class OneRunOnly:
    """What one run met and the other did not: incidents, rewinds, steps that it discarded, batches that it skipped."""

    letter: str
    incidents: tuple[DiffIncident, ...]
    rewinds: tuple[Rewind, ...]
    discarded: bool
    skipped: bool

    @property
    def first_step(self) -> int | None:
        """The first step of the effective history at which anything happened."""
        begun = [i.onset_step for i in self.incidents if not i.discarded] + [r.step for r in self.rewinds]
        return min(begun, default=None)

    @property
    def to_loss(self) -> bool:
        """Whether anything happened that the loss had to get over."""
        went_back = any(r.kind == "rollback" for r in self.rewinds)
        return went_back or self.skipped or any(i.on_loss for i in self.incidents)

    @property
    def anything(self) -> bool:
        """Whether anything happened at all."""
        partly = any(r.missing or r.altered or r.changes for r in self.rewinds)
        return bool(self.incidents) or self.discarded or partly or self.to_loss

    @property
    def unsettled(self) -> bool:
        """Whether a loss incident of the effective history never came to rest."""
        return any(i.on_loss and not i.discarded and i.outcome in _UNSETTLED for i in self.incidents)


def judge(
    columns: Sequence[ColumnDiff],
    steps: int,
    unequal: Unequal,
    measured: Gap | str,
    alone: Sequence[OneRunOnly],
) -> tuple[Verdict, str]:
    """The verdict and why.

    `steps` counts the common ones; `measured` is the gap of the loss by step, or why there is none.
    """
    if not steps:
        return "different", "the runs have no step in common"
    if columns and all(column.equal for column in columns) and not unequal.holes:
        same = f"{_count(len(columns), 'common column')} in {_count(steps, 'common step')} hold the same bits"
        return ("different", f"{unequal.ends}; {same}") if unequal.ends else ("identical", same)
    if isinstance(measured, str):
        return "different", f"bits differ, and {measured}"
    gap = measured
    if math.isnan(gap.final):
        return "different", "the loss of one run ends non-finite"
    noise = f"the noise of ±{nats(gap.noise.end)}"
    inside = abs(gap.final) <= gap.noise.end
    if inside and not gap.outside and not any(one.to_loss for one in alone):
        same = f"the loss lies within the noise throughout (levels ±{nats(gap.noise.band)}, end ±{nats(gap.noise.end)})"
        return ("different", f"{unequal.ends}; {same}") if unequal.ends else ("equivalent", same)
    end = f"b ends {nats(abs(gap.final))} nats {'below' if gap.final < 0 else 'above'} a"
    who = " and ".join(one.letter for one in alone if one.anything)
    if gap.before is not None and abs(gap.before) > gap.before_noise:
        apart = f"{nats(abs(gap.before))} nats apart before anything happened"
        return "different", f"{apart}, outside the noise of ±{nats(gap.before_noise)}"
    if not who:
        where = f"{end}, outside {noise}" if not inside else f"{gap.outside} of {gap.levels} levels leave the noise"
        return "different", f"{where}, and nothing happened to one run alone"
    if inside:
        return "recovered", f"what happened to {who} is over: {end}, within {noise}"
    if any(one.unsettled for one in alone):
        return "different", f"{who} has not settled: {end}, outside {noise}"
    return "lingering", f"what happened to {who} stays: {end}, outside {noise}"


def _count(number_of: int, what: str) -> str:
    return f"{number_of:,} {what}{'s' if number_of != 1 else ''}"
