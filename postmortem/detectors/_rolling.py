"""Trailing statistics without a Python loop over rows: exact on a grid of rows, constant in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from postmortem.stats import median

Values = NDArray[np.float64]

GRID_ROWS = 16_384
"""Up to this many rows, every row has its own window; in longer series, hops of rows share one, at constant cost."""

TAIL_BLOCK = 32
"""Rows of a block that is reduced to its extremes, counted from the first row on: a tail of 1,024 rows is 32 blocks."""

_CHUNK_WINDOWS = 2_048
"""Windows that are partitioned at once: 16 MB of float64 with a window of 1,000 rows."""


CHUNK_ROWS = 2**20
"""Rows that are computed at once where a result needs others in between: in a column of 10^7 rows, each is 80 MB."""


def hop_for(rows: int) -> int:
    """Rows that share one window, so that a column costs about the same at 16,384 rows and at a million."""
    return max(1, -(-rows // GRID_ROWS))


def trailing_quantiles(y: Values, window: int, hop: int, quantiles: Sequence[float], min_rows: int) -> Values:
    """float64[len(quantiles), ceil(n / hop)]: quantiles of the `window` rows before each grid row, itself excluded.

    Nearest-rank quantiles. NaN where there are fewer than `min_rows` rows before. `y` is float64[n], finite.
    """
    rows = np.arange(0, y.size, hop)
    out = np.full((len(quantiles), rows.size), np.nan)
    head = int(np.searchsorted(rows, window))
    for g in range(int(np.searchsorted(rows, max(min_rows, 1))), head):
        past = np.sort(y[: rows[g]])
        out[:, g] = past[[round(q * (past.size - 1)) for q in quantiles]]
    if head < rows.size:
        view = sliding_window_view(y, window)
        ranks = [round(q * (window - 1)) for q in quantiles]
        for g in range(head, rows.size, _CHUNK_WINDOWS):
            part = np.partition(view[rows[g : g + _CHUNK_WINDOWS] - window], sorted(set(ranks)), axis=1)
            out[:, g : g + _CHUNK_WINDOWS] = part[:, ranks].T
    return out


def trailing_extremes(x: Values, window: int, hop: int) -> tuple[Values, Values]:
    """Two float64[ceil(n / hop)]: about the second lowest (never above 0) and the fourth highest (never below 0) of
    the `window` rows before each grid row, taken from the extremes of whole blocks. 0 where the past is too short (the
    highest needs a quarter of the window: the top of few rows may be the event itself)."""
    block = max(TAIL_BLOCK, hop)
    blocks = x.size // block
    grid = -(-x.size // hop)
    if blocks < 1:
        return np.zeros(grid), np.zeros(grid)
    cut = x[: blocks * block].reshape(blocks, block)
    blocks_back = max(2, window // block)
    ends = np.zeros((2, blocks + 1))
    low = np.append(cut.min(axis=1), 0.0)
    high = np.append(cut.max(axis=1), 0.0)
    lowest = trailing_quantiles(low, blocks_back, 1, (1 / blocks_back,), 1)[0]
    highest = trailing_quantiles(high, blocks_back, 1, (1 - 3.5 / blocks_back,), blocks_back // 4)[0]
    ends[0] = np.minimum(np.nan_to_num(lowest), 0.0)
    ends[1] = np.maximum(np.nan_to_num(highest), 0.0)
    full_blocks = np.arange(grid) * hop // block
    return ends[0, full_blocks], ends[1, full_blocks]


def forward_median(y: Values, window: int) -> Values:
    """float64[n]: median of up to `window` rows from each row on (fewer at the end)."""
    out = np.empty_like(y)
    full = y.size - window + 1
    if full > 0:
        out[:full] = median(sliding_window_view(y, window), axis=1)
    for i in range(max(full, 0), y.size):
        out[i] = median(y[i:])
    return out


def local_noise(y: Values) -> Values:
    """float64[n]: each row minus the second smallest of its four neighbors; 0 for the two rows at either end.

    Trends and level steps cancel, and so does the effect of an upward excursion on the rows beside it. What remains
    downward is noise, which no fault makes: it tells a heavy tail from an event.
    """
    out = np.zeros_like(y)
    for lo in range(0, y.size - 4, CHUNK_ROWS):
        rows = y[lo : lo + CHUNK_ROWS + 4]
        a, b, c, d = rows[:-4], rows[1:-3], rows[3:-1], rows[4:]
        low, high = np.minimum(a, b), np.maximum(a, b)
        low2, high2 = np.minimum(c, d), np.maximum(c, d)
        second = np.minimum(np.maximum(low, low2), np.minimum(high, high2))
        out[lo + 2 : lo + rows.size - 2] = rows[2:-2] - second
    return out
