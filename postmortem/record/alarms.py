"""Alarms while a run is recorded: the live detectors, called by the training thread and by the background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Lock

from postmortem.detectors import Alarm, Row, live

_DETECTORS = (
    "early_rise",
    "loss_spike",
    "loss_cusum",
    "grad_norm_spike",
    "update_rms",
    "lr_discontinuity",
    "loss_scale",
    "non_finite",
)
"""Not `grad_norm_shift`, which is sure only when the shift is over, nor `suspected_non_finite`: a loss that was not
handed over yet is not a blank one."""


_MOST_ROWS = 256
"""Waiting rows at which the next call of `add_row` asks for a look at them."""


class Alarms:
    """Alarms that begin an episode of their column: each is reported once, until `calm` steps pass without an alarm.

    `add_row` makes one comparison per column and stores the row; `look` examines all stored rows together, unless one
    stands out. Safe to call from two threads. Values of one column come in order; values out of order are ignored.
    """

    def __init__(self, calm: int = 50) -> None:
        self._calm = calm
        self._live = live(_DETECTORS)
        self._lock = Lock()
        self._rows: deque[tuple[int, Row]] = deque()
        self._levels = tuple(self._live.levels().items())
        self._open: set[tuple[str, str, int]] = set()
        self._until: dict[str, int] = {}

    def add_row(self, step: int, row: Row, nonfinite: Sequence[str] | None) -> bool:
        """Store a row whose `nonfinite` columns are not finite; whether `look` should be called now."""
        self._rows.append((step, dict(row)))
        for column, level in self._levels:
            value = row.get(column)
            if value is not None and not value <= level:
                return True
        new = [name for name in nonfinite or () if self.begins(step, f"nonfinite value of {name}")]
        return bool(new) or len(self._rows) >= _MOST_ROWS

    def look(self) -> list[tuple[int, Row, list[Alarm]]]:
        """Examine the stored rows; (step, row, alarms) where an episode begins."""
        beginnings: list[tuple[int, Row, list[Alarm]]] = []
        with self._lock:
            while self._rows:
                step, row = self._rows.popleft()
                alarms = self._live.add_row(step, row)
                if new := [alarm for alarm in alarms if self._is_new(alarm) and self.begins(step, _episode(alarm))]:
                    beginnings.append((step, row, new))
            self._levels = tuple(self._live.levels().items())
        return beginnings

    def begins(self, step: int, episode: str) -> bool:
        """`episode` shows at `step`: whether it begins there, rather than continuing."""
        new = step > self._until.get(episode, -1)
        self._until[episode] = step + self._calm
        return new

    def rewind(self, step: int) -> None:
        """The run went back to `step`: alarms from here on begin new episodes."""
        with self._lock:
            self._rows.clear()
            self._live.rewind_to(step)
            self._levels = tuple(self._live.levels().items())
            self._open.clear()
            self._until.clear()

    def _is_new(self, alarm: Alarm) -> bool:
        already_open = alarm.key in self._open
        (self._open.add if alarm.state == "open" else self._open.discard)(alarm.key)
        return not already_open and alarm.state != "withdrawn"


def _episode(alarm: Alarm) -> str:
    return f"nonfinite {alarm.column}" if alarm.detector == "non_finite" else alarm.column
