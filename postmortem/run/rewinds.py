"""Attempts of a log that does not name them: a backward jump that repeats old steps is a resume; disorder is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from postmortem.series import Steps, Values
from postmortem.stats import median
from postmortem.text import count

_ROWS_PER_STRETCH = 4
"""Rows between two jumps, on average, from which they may be resumes: interleaved writers jump every few rows."""

_JUMPS_PER_ROW, _ALWAYS_FEW = 1 / 50, 3
"""Jumps are few up to one in 50 rows, or up to three: shuffled rows jump every second row."""


def attempts_of(
    step: Steps,
    anchor: Values,
    logged: NDArray[np.bool_],
    targets: Collection[int],
    display_name: str,
    joins: Collection[int] = (),
) -> tuple[Steps, list[str]]:
    """(attempt int64[n], notes) of rows in file order.

    Only rows that log the anchor column (the loss) decide: a late eval row is no rewind. A backward jump starts a new
    attempt where the stretch after it repeats earlier steps with different values; and only where such jumps are few
    for the number of rows, or all lead to the first step, because shuffled rows and interleaved writers jump all the
    time.
    `targets` are steps to which the run went back by its journal: jumps to them always count, as do those at `joins`,
    the rows at which another log begins.
    """
    rows = np.flatnonzero(logged)
    attempt = np.zeros(step.size, np.int64)
    s = step[rows]
    jumps = np.flatnonzero(s[1:] < s[:-1]) + 1
    if not jumps.size:
        return attempt, []
    earlier = _earlier_rows(s)
    repeats = earlier >= 0
    if not repeats.any():
        return attempt, [f"{display_name}: the steps are not in order ({jumps.size} backward jumps) and were sorted"]
    ends = np.append(jumps[1:], s.size)
    stride = int(median(np.maximum(np.diff(s), 1)))
    landings = s[jumps]
    expected = np.isin(jumps, np.searchsorted(rows, np.array([*joins], np.int64)))
    for target in targets:
        expected |= (landings >= target) & (landings - target <= stride)
    restarts = landings <= s[0]
    few = bool(restarts.all()) or jumps.size <= max(_ALWAYS_FEW, s.size * _JUMPS_PER_ROW)
    few = few and (jumps.size + 1) * _ROWS_PER_STRETCH <= s.size
    if not few and not expected.all():
        note = (
            f"{display_name}: {jumps.size} backward jumps in {s.size} rows look like shuffled rows or several writers, "
            "not like resumes: for each step, the row that was written last is kept"
        )
        return attempt, [note]
    highest = np.maximum.accumulate(s)
    values = anchor[rows]
    notes: list[str] = []
    starts: list[int] = []
    for jump, end, is_target in zip(jumps.tolist(), ends.tolist(), expected.tolist(), strict=True):
        old = np.arange(jump, end)[s[jump:end] <= highest[jump - 1]]
        again = old[repeats[old] & (earlier[old] < jump)]
        same = bool(np.array_equal(values[again], values[earlier[again]], equal_nan=True))
        if is_target or (2 * again.size >= old.size and not same):
            starts.append(int(rows[jump]))
        elif again.size and same:
            notes.append(f"{display_name}: {again.size} rows from step {s[jump]} on are exact repeats and were dropped")
        else:
            notes.append(
                f"{display_name}: a backward jump to step {s[jump]} repeats hardly any step: its rows were sorted in"
            )
    for start in starts:
        attempt[start:] += 1
    landed = [int(step[start]) for start in starts]
    notes += _restarts([to for to in landed if to <= s[0]], [to for to in landed if to > s[0]], display_name)
    return attempt, notes


def _restarts(anew: Sequence[int], resumed: Sequence[int], display_name: str) -> list[str]:
    """Notes on the steps at which the log begins anew, and on those at which it was resumed."""
    notes: list[str] = []
    if anew:
        notes.append(
            f"{display_name}: the steps begin again at {anew[0]}: read as {count(len(anew), 'restart')}, each of which "
            "sets aside what was logged before it; no attempt is logged"
        )
    if resumed:
        where = ", ".join(map(str, resumed[:5])) + (", …" if len(resumed) > 5 else "")
        notes.append(
            f"{display_name}: the steps run backward to {where}: read as {count(len(resumed), 'resume')}; "
            "no attempt is logged"
        )
    return notes


def _earlier_rows(step: Steps) -> Steps:
    """For each row, the last earlier row of the same step, or -1."""
    order = np.argsort(step, kind="stable")
    previous = np.full(step.size, -1, np.int64)
    same = step[order[1:]] == step[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous
