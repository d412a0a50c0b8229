"""What two runs do not have in common, and what their logs therefore cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from postmortem.diff.model import RunSummary
from postmortem.diff.pair import Pair
from postmortem.diff.settings import unrecorded


@dataclass(frozen=True)
class Unequal:
    """How the steps of two runs differ. `ends`: they begin or end elsewhere, "" where not, or where one goes on from
    the other; `holes`: rows between that one run alone has; `told`: either, as the first facts say it.
    """

    ends: str
    holes: bool
    told: tuple[str, ...]


def unequal(pair: Pair, a: RunSummary, b: RunSummary) -> Unequal:
    """The steps of the effective histories, to within one row."""
    near = max(a.row_step, b.row_step)
    parts: list[str] = []
    if a.first_step is not None and b.first_step is not None and a.last_step is not None and b.last_step is not None:
        if abs(a.first_step - b.first_step) >= near:
            parts.append(f"a begins at step {a.first_step}, b at {b.first_step}")
        if abs(a.last_step - b.last_step) >= near:
            parts.append(f"a ends at step {a.last_step}, b at {b.last_step}")
    said = ", ".join(parts)
    steps = pair.steps
    inside = [
        int(((run.row_steps >= steps[0]) & (run.row_steps <= steps[-1])).sum()) if steps.size else 0
        for run in pair.runs
    ]
    holes = [letter for letter, rows in zip("ab", inside, strict=True) if rows > steps.size]
    told = [said] if said else []
    if holes:
        more = " and ".join(f"{letter} {rows - steps.size:,}" for letter, rows in zip("ab", inside, strict=True))
        told.append(f"between steps {steps[0]} and {steps[-1]}, rows that the other run lacks: {more}")
    return Unequal("" if pair.related else said, bool(holes), tuple(told))


def cannot_tell(pair: Pair, lacking: str) -> tuple[str, ...]:
    """What is not said, because a log does not hold it; one sentence each. `lacking`: why no gap was measured."""
    told: list[str] = []
    if lacking == "no loss in both":
        told.append(f"how far apart the runs lie: {_lacks(pair, 'loss')}")
    elif lacking:
        told.append("how far apart the runs lie, against noise: too few common rows")
    if pair.key is None:
        why = _lacks(pair, "batch_hash")
        told.append(f"whether a step consumed the same batch, so rows are matched by step only: {why}")
    elif pair.key == "batch_index":
        told.append(f"whether batches of one index hold the same data: {_lacks(pair, 'batch_hash')}")
    if not _both(pair, "param_hash") and not _both(pair, "param_hash_part"):
        told.append(f"whether the parameters were the same: {_lacks(pair, 'param_hash')}")
    elif not pair.comparable("state"):
        told.append("whether the parameters were the same: the runs hash them by different functions")
    told += unrecorded(pair.a, pair.b)
    quiet = [letter for letter, run in zip("ab", pair.runs, strict=True) if not run.journal]
    if quiet:
        told.append(f"resumes and rollbacks, but for what the rows show: {' and '.join(quiet)} without a journal")
    return tuple(told)


def _both(pair: Pair, column: str) -> bool:
    return all(column in run.columns for run in pair.runs)


def _lacks(pair: Pair, column: Literal["loss", "batch_hash", "param_hash"]) -> str:
    if _both(pair, column):
        return "the runs hash them by different functions"
    lacking = [letter for letter, run in zip("ab", pair.runs, strict=True) if column not in run.columns]
    return f"no {column} in {' and '.join(lacking)}"
