"""Defines what a cause of an incident is, and finds all known causes, one file each.

A cause file defines `CAUSE = Cause(…)`; its docstring is the page that `postmortem explain SLUG` prints. `weights` maps
observations of the panels to log-odds for (> 0) or against (< 0) the cause; observations that say nothing about the
cause are left out. Scale: 0.5 a hint, 1.5 moderate, 3 strong, 5 decisive; the verbs of the report ("counts against")
follow this scale. Weights were set on lab runs with seeds 0–99 and are reported on seeds from 1,000 up
(docs/benchmarks.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from postmortem.case import Case, Observation
from postmortem.causes._remedies import HALF as HALF
from postmortem.causes._remedies import lower_rate as lower_rate
from postmortem.causes._remedies import roll_back as roll_back
from postmortem.causes._remedies import skip as skip
from postmortem.change import Change, Window
from postmortem.diagnosis import Prediction, Remedy
from postmortem.discovery import discover

Observed: TypeAlias = Mapping[str, Observation]


@dataclass(frozen=True)
class Suspect:
    """What the replays of a cause change in one incident.

    `window` are the suspect batches, `move_to` is the later batch that the window can be moved to, `onset` the step of
    the onset, and `jump` the step where the learning rate jumps (the onset where it does not). `lost` is what a resume
    just before the onset did not restore, by the journal: "optimizer", "schedule", "loader", … `rate` is the factor of
    the learning rate that is a remedy: the one that cured the incident in a replay, or a half.
    """

    window: Window
    move_to: int
    onset: int
    jump: int
    lost: frozenset[str] = frozenset()
    rate: float = HALF


def _no_prediction(_: Suspect) -> tuple[Prediction, ...]:
    return ()


@dataclass(frozen=True)
class Cause:
    """One named cause. `prior` is its log-odds against `unknown` without any evidence.

    `root_cause_sentence` is §4 of the report, one sentence with its figures; `remedies` are §5 of the report (smallest
    first, then those not recommended). `lesson` is the fact that §7 of the report teaches, without a full stop; what to
    do about it is added from the remedies, see `assess.wording.lesson`. `proof_text` says which replay would prove the
    cause. `rivals` are causes that predict the same panels. `suspect_batch_count` gives the number of suspect batches
    from the onset on, or None where it is not known; it is None itself where skipping batches is no remedy. `predicts`
    gives replays and their outcomes if this cause is the true one. `fix` gives the changes of a replay that contains
    the fix (() where replaying unchanged is enough); it is None where no such replay exists. Where a cause is
    `harmless`, nothing in the run has to change, and §6 has nothing to verify.
    """

    slug: str
    title: str
    prior: float
    weights: Mapping[str, float]
    root_cause_sentence: Callable[[Case, Observed], str]
    remedies: Callable[[Case, Observed], tuple[Remedy, ...]]
    proof_text: str
    lesson: str
    rivals: tuple[str, ...] = ()
    suspect_batch_count: Callable[[Case, Observed], int | None] | None = None  # see `Case.batch_window`
    predicts: Callable[[Suspect], tuple[Prediction, ...]] = _no_prediction
    fix: Callable[[Suspect], tuple[Change, ...]] | None = None
    harmless: bool = False
    doc: str | None = None

    def __post_init__(self) -> None:
        if not self.doc:
            raise ValueError(f"cause {self.slug}: its file needs a docstring, passed as doc=__doc__")

    def explain(self) -> str:
        """The cause's documentation, in Markdown."""
        text = (self.doc or "").strip()
        return f"# {self.title} (`{self.slug}`)\n\n{text}\n\n**Replay that would prove it.** {self.proof_text}\n"


@cache
def causes() -> tuple[Cause, ...]:
    """All causes, in alphabetical order of their slugs."""
    discovered = discover(sys.modules[__name__], "CAUSE", Cause, group="postmortem.causes", unique=("slug",))
    return tuple(sorted(discovered, key=lambda cause: cause.slug))
