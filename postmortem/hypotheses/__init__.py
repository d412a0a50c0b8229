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
from postmortem.diagnosis import Change, Prediction
from postmortem.discovery import discover

Seen: TypeAlias = Mapping[str, Observation]


@dataclass(frozen=True)
class Cause:
    """One named cause. `prior` is its log-odds against `unknown` before any evidence is seen.

    `sentence` is §4 in one sentence with its figures, `changes` §5 (smallest first, then what was declined), `replay`
    the experiment that would prove it, `lesson` §7. `rivals` are causes that predict the same panels;
    `skip_rows` is None where skipping batches is no remedy. `predicts` are replays and their outcomes if the cause is
    the true one, with {window}, {elsewhere} (a place for the window further on), {onset} and {jump} (of the learning
    rate, the onset where there is none) to be filled in; `remedy` is the change that a replay with the fix in it makes,
    None where there is none.
    """

    slug: str
    title: str
    prior: float
    weights: Mapping[str, float]
    sentence: Callable[[Case, Seen], str]
    changes: Callable[[Case, Seen], tuple[Change, ...]]
    replay: str
    lesson: str
    rivals: tuple[str, ...] = ()
    skip_rows: Callable[[Case, Seen], int | None] | None = None  # of suspect batches (see `batch_window`)
    predicts: tuple[Prediction, ...] = ()
    remedy: str | None = None
    doc: str | None = None

    def explain(self) -> str:
        """The cause's documentation, in Markdown."""
        text = (self.doc or "").strip()
        return f"# {self.title} (`{self.slug}`)\n\n{text}\n\n**Replay that would prove it.** {self.replay}\n"


@cache
def causes() -> tuple[Cause, ...]:
    """All causes, in alphabetical order of their slugs."""
    found = discover(sys.modules[__name__], "CAUSE", Cause, group="postmortem.causes", unique=("slug",))
    found = sorted(found, key=lambda cause: cause.slug)
    for cause in found:
        if not cause.doc:
            raise TypeError(f"cause {cause.slug}: its file needs a docstring, passed as doc=__doc__")
    return tuple(found)
