"""The causes: one file each. Its docstring is its user documentation (`postmortem explain SLUG`).

A cause file holds `CAUSE = Cause(…)`. `weights` maps observations of the panels to log-odds for (> 0) or against (< 0)
the cause; a cause that has nothing to say of an observation leaves it out. Scale: 0.5 a hint, 1.5 moderate, 3 strong,
5 decisive. Weights were set on lab runs with seeds 0–99 and are reported on seeds from 1,000 up (docs/benchmarks.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from postmortem.case import Case, Observation
from postmortem.causes._remedies import roll_back as roll_back
from postmortem.causes._remedies import skip as skip
from postmortem.change import Change, Window
from postmortem.diagnosis import Prediction, Remedy
from postmortem.discovery import discover

Seen: TypeAlias = Mapping[str, Observation]


@dataclass(frozen=True)
class Suspect:
    """What the replays of a cause are about in one incident: the `window` of batches that it suspects, the batch
    `elsewhere` further on that the window can be moved to, the step of the onset, and that of a `jump` of the learning
    rate (the onset where there is none)."""

    window: Window
    elsewhere: int
    onset: int
    jump: int


def _nothing(_: Suspect) -> tuple[Prediction, ...]:
    return ()


@dataclass(frozen=True)
class Cause:
    """One named cause. `prior` is its log-odds against `unknown` before any evidence is seen.

    `sentence` is §4 in one sentence with its figures, `changes` §5 (smallest first, then what was declined), `replay`
    the experiment that would prove it, `lesson` §7. `rivals` are causes that predict the same panels;
    `skip_rows` is None where skipping batches is no remedy. `predicts` gives replays and their outcomes if the cause is
    the true one; `remedy` the changes that a replay with the fix in it makes (() where driving it again is enough),
    None where there is none.
    """

    slug: str
    title: str
    prior: float
    weights: Mapping[str, float]
    sentence: Callable[[Case, Seen], str]
    changes: Callable[[Case, Seen], tuple[Remedy, ...]]
    replay: str
    lesson: str
    rivals: tuple[str, ...] = ()
    skip_rows: Callable[[Case, Seen], int | None] | None = None  # of suspect batches (see `batch_window`)
    predicts: Callable[[Suspect], tuple[Prediction, ...]] = _nothing
    remedy: Callable[[Suspect], tuple[Change, ...]] | None = None
    doc: str | None = None

    def __post_init__(self) -> None:
        if not self.doc:
            raise ValueError(f"cause {self.slug}: its file needs a docstring, passed as doc=__doc__")

    def explain(self) -> str:
        """The cause's documentation, in Markdown."""
        text = (self.doc or "").strip()
        return f"# {self.title} (`{self.slug}`)\n\n{text}\n\n**Replay that would prove it.** {self.replay}\n"


@cache
def causes() -> tuple[Cause, ...]:
    """All causes, in alphabetical order of their slugs."""
    found = discover(sys.modules[__name__], "CAUSE", Cause, group="postmortem.causes", unique=("slug",))
    return tuple(sorted(found, key=lambda cause: cause.slug))
