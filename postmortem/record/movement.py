"""Has something begun to move? A cheap test, row by row, that decides when to look closely; it diagnoses nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

_WINDOW = 128
_ENOUGH = 32  # values, before a window judges
_EVERY = 16  # values, its bounds are taken anew
_FAR = 6.0  # sigmas
_FLOOR = 0.005  # of the level, and absolute: a sigma below it is no noise that a loss has
_PERSISTENT = 16  # outliers in a row: the level itself has changed


class Window:
    """The last 128 ordinary values of one column, against which the next one is held.

    Sigma is half the distance between the 16th and the 84th percentile; both are taken anew after every 16 values, so
    that a value costs two comparisons. An outlier stays out of the window; when 16 follow each other the window begins
    anew at their level.
    """

    __slots__ = ("_fresh", "_high", "_low", "_outliers", "_values")

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_WINDOW)
        self._low, self._high = -math.inf, math.inf
        self._fresh = self._outliers = 0

    def outlier(self, value: float) -> bool:
        """Whether the finite `value` departs from the window. One that does not is taken in."""
        if self._low <= value <= self._high:
            self._values.append(value)
            self._outliers = 0
            self._fresh += 1
            if self._fresh >= _EVERY:
                self._measure()
            return False
        self._outliers += 1
        if self._outliers >= _PERSISTENT:
            self.__init__()
        return True

    def _measure(self) -> None:
        self._fresh = 0
        ranked = sorted(self._values)
        n = len(ranked)
        if n >= _ENOUGH:
            middle = ranked[n // 2]
            sigma = 0.5 * (ranked[n * 84 // 100] - ranked[n * 16 // 100])
            reach = _FAR * max(sigma, _FLOOR * abs(middle), _FLOOR)
            self._low, self._high = middle - reach, middle + reach


class Movement:
    """Episodes of movement in loss and gradient norm, and of non-finite values: each is told of once.

    An episode ends after `calm` steps in a row without an outlier. Gradient norms are judged by their logarithm,
    because their noise is multiplicative.
    """

    def __init__(self, calm: int = 50) -> None:
        self.calm = calm
        self._loss, self._norm = Window(), Window()
        self._until: dict[str, int] = {}

    def judge(self, step: int, row: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
        """Take in a row; (column, value) of those that open an episode. Non-finite ones are left out."""
        loss, norm = row.get("loss"), row.get("grad_norm")
        found: list[tuple[str, float]] | None = None
        if type(loss) is float and loss - loss == 0.0 and self._loss.outlier(loss) and self.opens(step, "loss"):
            found = [("loss", loss)]
        if type(norm) is not float or norm - norm != 0.0 or norm <= 0.0:
            return found or ()
        if self._norm.outlier(math.log(norm)) and self.opens(step, "grad_norm"):
            found = [*(found or ()), ("grad_norm", norm)]
        return found or ()

    def opens(self, step: int, kind: str) -> bool:
        """Something of `kind` was seen at `step`: whether it opens an episode rather than going on with one."""
        new = step > self._until.get(kind, -1)
        self._until[kind] = step + self.calm
        return new

    def rewound(self) -> None:
        """The run went back: what follows are new episodes."""
        self._until.clear()
