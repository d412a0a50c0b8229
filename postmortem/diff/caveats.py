"""Lists what two logs do not have in common, and which questions the diff therefore cannot answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from postmortem.diff.model import Alignment, RunSummary, Verdict
from postmortem.diff.pair import Pair
from postmortem.diff.settings import unrecorded
from postmortem.text import count

NO_COMMON_LOSS = "no loss in both"
"""The reason why no gap of the loss can be measured."""

_DIFFERENT_HASHES = "the runs use different hash functions"


@dataclass(frozen=True)
class StepMismatch:
    """How the steps of two runs differ.

    `ends`: the runs begin or end at different steps ("" where they do not, or where one continues the other); `holes`:
    one run lacks rows in between; `first_rows`: "b is the first 24 rows of a", if the values agree ("" where the steps
    already say that it is not); `lines`: ends and holes as sentences for the first facts.
    """

    ends: str
    holes: bool
    first_rows: str
    lines: tuple[str, ...]


def step_mismatch(pair: Pair, a: RunSummary, b: RunSummary) -> StepMismatch:
    """The difference between the steps of the effective histories, to within one row."""
    near = max(a.row_step, b.row_step)
    parts: list[str] = []
    if a.first_step is not None and b.first_step is not None and a.last_step is not None and b.last_step is not None:
        if abs(a.first_step - b.first_step) >= near:
            parts.append(f"a begins at step {a.first_step}, b at {b.first_step}")
        if abs(a.last_step - b.last_step) >= near:
            parts.append(f"a ends at step {a.last_step}, b at {b.last_step}")
    ends = ", ".join(parts)
    steps = pair.steps
    inside = [
        int(((run.row_steps >= steps[0]) & (run.row_steps <= steps[-1])).sum()) if steps.size else 0
        for run in pair.runs
    ]
    holes = any(rows > steps.size for rows in inside)
    lines = [ends] if ends else []
    if holes:
        extra = " and ".join(f"{letter} {rows - steps.size:,}" for letter, rows in zip("ab", inside, strict=True))
        lines.append(f"between steps {steps[0]} and {steps[-1]}, rows that the other run lacks: {extra}")
    first_rows = ""
    if ends and not holes and a.first_step == b.first_step and steps.size == min(a.rows, b.rows):
        shorter, longer = ("a", "b") if a.rows < b.rows else ("b", "a")
        first_rows = f"{shorter} is the first {count(int(steps.size), 'row')} of {longer}"
    return StepMismatch("" if pair.related else ends, holes, first_rows, tuple(lines))


def independence_line(a: RunSummary, b: RunSummary, alignment: Alignment | None, verdict: Verdict) -> tuple[str, ...]:
    """What a verdict on what happened means for two runs with different seeds and no batch in common; else ()."""
    if verdict not in ("transient", "recovered", "lingering") or None in (a.seed, b.seed) or a.seed == b.seed:
        return ()
    if alignment is None or alignment.matched:
        return ()
    levels = "different levels" if verdict == "lingering" else "the same level"
    runs = f"the runs are independent (seeds {a.seed} and {b.seed}, no batch in common)"
    return (f"{runs}: the verdict only says that their losses end at {levels}",)


def cannot_tell(pair: Pair, lacking: str) -> tuple[str, ...]:
    """What the diff cannot say because a log lacks it, one sentence each. `lacking`: why no gap was measured."""
    sentences: list[str] = []
    if lacking == NO_COMMON_LOSS:
        sentences.append(f"how far apart the runs are: {_why_lacking(pair, 'loss')}")
    elif lacking:
        sentences.append("how far apart the runs are, compared with the noise: too few common rows")
    if pair.key is None:
        reason = _why_lacking(pair, "batch_hash")
        sentences.append(f"whether a step consumed the same batch, so rows are matched by step only: {reason}")
    elif pair.key == "batch_index":
        reason = _why_lacking(pair, "batch_hash")
        sentences.append(f"whether batches with the same index have the same data: {reason}")
    if not _both_log(pair, "param_hash") and not _both_log(pair, "param_hash_part"):
        sentences.append(f"whether the parameters were the same: {_why_lacking(pair, 'param_hash')}")
    elif not pair.comparable("state"):
        sentences.append(f"whether the parameters were the same: {_DIFFERENT_HASHES}")
    sentences += unrecorded(pair.a, pair.b)
    letters = [letter for letter, run in zip("ab", pair.runs, strict=True) if not run.journal]
    if letters:
        verb = "has" if len(letters) == 1 else "have"
        reason = f"{' and '.join(letters)} {verb} no journal"
        sentences.append(f"resumes and rollbacks, except for those that the rows show: {reason}")
    return tuple(sentences)


def _both_log(pair: Pair, column: str) -> bool:
    return all(column in run.columns for run in pair.runs)


def _why_lacking(pair: Pair, column: Literal["loss", "batch_hash", "param_hash"]) -> str:
    if _both_log(pair, column):
        return _DIFFERENT_HASHES
    lacking = [letter for letter, run in zip("ab", pair.runs, strict=True) if column not in run.columns]
    return f"no {column} in {' and '.join(lacking)}"
