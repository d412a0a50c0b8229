"""The result of a replay: stored beside its rows, and read when the replay is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from postmortem.jsonio import strict_json

RESULT_FILE = "replayed.json"


@dataclass(frozen=True)
class Difference:
    """The first step at which a column of the replay differs from what the run recorded."""

    column: str
    step: int
    recorded: float | str
    replayed: float | str | None


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay.

    `differences` are the first difference of each column, `departed` how many rows of each differ; `compared` counts
    the rows that could be compared; `arithmetic` says what bits depend on and what differs from the run,
    `computed_with` what this replay computed with; `state` is a hash of the final state; `startup_s` are the seconds
    from the call to the first step.
    """

    out: str
    from_step: int
    until: int
    changes: tuple[str, ...]
    steps: int
    compared: int
    columns: tuple[str, ...]
    differences: tuple[Difference, ...]
    departed: Mapping[str, int]
    arithmetic: tuple[str, ...]
    state: str
    startup_s: float
    seconds: float
    computed_with: str = ""

    @property
    def exact(self) -> bool:
        """Whether every compared row equals the run's, bit for bit."""
        return self.compared > 0 and not self.differences


def to_json(result: ReplayResult) -> str:
    """The result as strict JSON; numbers that are not finite are texts."""
    return strict_json(result)
