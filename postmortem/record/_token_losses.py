"""Ranks the token losses of a watched step: on the host, in the background thread, by numpy alone."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_WORST = 8
_RECENT = 20  # rows


class TokenLossRanking:
    """Makes columns of token losses, row by row, and remembers what was usual."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, ...]] = deque(maxlen=_RECENT)

    def columns(self, losses: NDArray[np.float32], ids: NDArray[Any] | None, width: int) -> dict[str, Any]:
        """The nearest-rank quantiles of the losses that count; and the worst tokens, worst first, where a quantile is
        higher than in the last 20 rows or is no number.

        `losses` is float[n], in nats, -Infinity where one does not count. `ids` is int[n], the tokens that they are of,
        negative where one does not count. `width` is the number of positions in a sample, 0 where it is not known: rows
        and columns of the worst tokens are those in the step's whole batch.
        """
        counts = losses != -np.inf
        if ids is not None:
            counts &= ids >= 0
        places = np.flatnonzero(counts)
        counting = losses[places]
        ranked = np.sort(counting)  # NaN last
        number = len(ranked)
        ranks = [max(0, math.ceil(share * number) - 1) for share in _QUANTILES.values()]
        quantiles = tuple(ranked[ranks].tolist()) if number else (math.nan,) * len(ranks)
        columns: dict[str, Any] = {f"token_loss_{name}": q for name, q in zip(_QUANTILES, quantiles, strict=True)}
        usual = zip(*self._recent, strict=True) if self._recent else ((-math.inf,),) * len(ranks)
        stands_out = any(not quantile <= max(before) for quantile, before in zip(quantiles, usual, strict=True))
        if number:
            self._recent.append(quantiles)
        if not stands_out:
            return columns
        worst = np.argsort(counting, kind="stable")[::-1][:_WORST]
        columns["worst_token_losses"] = counting[worst].tolist()
        places = places[worst]
        if width:
            columns |= {"worst_token_rows": (places // width).tolist(), "worst_token_cols": (places % width).tolist()}
        if ids is not None:
            columns["worst_token_ids"] = ids[places].tolist()
        return columns
