"""What came of a replay: kept beside its rows, and read by whoever judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from postmortem.jsonio import strict_json

RESULT_FILE = "replayed.json"


@dataclass(frozen=True)
class Difference:
    """The first step at which a column of the replay is another than the run recorded."""

    column: str
    step: int
    recorded: float | str
    replayed: float | str | None


@dataclass(frozen=True)
class ReplayResult:
    """What came of an order.

    `differences` are the first of each column against the run, `departed` how many rows of each differ; `compared`
    counts the rows that could be compared; `arithmetic` says what the bits depend on and was other then,
    `computed_with` what they come from now; `state` is a hash of the final state; `startup_s` the seconds from
    the call to the first step.
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
        """Whether every compared row is the run's, bit for bit."""
        return self.compared > 0 and not self.differences


def to_json(result: ReplayResult) -> str:
    """The result as strict JSON; what is not finite is a text."""
    return strict_json(result)
