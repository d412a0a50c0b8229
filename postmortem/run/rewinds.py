"""Attempts of a log that names none: a backward jump that logs old steps again is a resume; disorder is not."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from postmortem.series import Steps, Values

_ROWS_PER_STRETCH = 4
_JUMPS_PER_ROW = 1 / 50
_ALWAYS_FEW = 3


def attempts_of(
    step: Steps, anchor: Values, logged: NDArray[np.bool_], known: Collection[int], shown: str
) -> tuple[Steps, list[str]]:
    """(attempt int64[n], notes) of rows in file order.

    Only rows that log the anchor column (the loss) decide: an eval row that comes late is no rewind. A backward jump
    starts a new attempt where the stretch after it logs again steps that were logged before, with other values; and
    only where such jumps are few against the rows, because shuffled rows and interleaved writers jump all the time.
    `known` are steps to which the journal says that the run went back: jumps to them are always believed.
    """
    rows = np.flatnonzero(logged)
    attempt = np.zeros(step.size, np.int64)
    s = step[rows]
    jumps = np.flatnonzero(s[1:] < s[:-1]) + 1
    if not jumps.size:
        return attempt, []
    before = _previous(s)
    seen = before >= 0
    if not seen.any():
        return attempt, [f"{shown}: the steps are not in order ({jumps.size} backward jumps) and were sorted"]
    ends = np.append(jumps[1:], s.size)
    stride = int(np.median(np.maximum(np.diff(s), 1)))
    targets = s[jumps]
    expected = np.zeros(jumps.size, np.bool_)
    for target in known:
        expected |= (targets >= target) & (targets - target <= stride)
    few = jumps.size <= max(_ALWAYS_FEW, s.size * _JUMPS_PER_ROW) and (jumps.size + 1) * _ROWS_PER_STRETCH <= s.size
    if not few and not expected.all():
        return attempt, [
            f"{shown}: {jumps.size} backward jumps in {s.size} rows look like shuffled rows or several writers, not "
            "like resumes: for each step the row that was written last is kept"
        ]
    highest = np.maximum.accumulate(s)
    values = anchor[rows]
    notes: list[str] = []
    starts: list[int] = []
    for jump, end, told in zip(jumps.tolist(), ends.tolist(), expected.tolist(), strict=True):
        old = np.arange(jump, end)[s[jump:end] <= highest[jump - 1]]
        again = old[seen[old] & (before[old] < jump)]
        same = bool(np.array_equal(values[again], values[before[again]], equal_nan=True))
        if told or (2 * again.size >= old.size and not same):
            starts.append(int(rows[jump]))
        elif again.size and same:
            notes.append(
                f"{shown}: {again.size} rows from step {s[jump]} on are repeated word for word and were dropped"
            )
        else:
            notes.append(
                f"{shown}: a backward jump to step {s[jump]} logs hardly any step again: its rows were sorted in"
            )
    for start in starts:
        attempt[start:] += 1
    if starts:
        where = ", ".join(str(int(step[start])) for start in starts[:5]) + (", …" if len(starts) > 5 else "")
        notes.append(
            f"{shown}: the steps run backward to {where}: read as {len(starts)} resume(s), no attempt is logged"
        )
    return attempt, notes


def _previous(step: Steps) -> Steps:
    """For each row, the last earlier row of the same step, or -1."""
    order = np.argsort(step, kind="stable")
    previous = np.full(step.size, -1, np.int64)
    same = step[order[1:]] == step[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous
