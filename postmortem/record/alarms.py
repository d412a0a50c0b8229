"""What departs while a run is recorded: the live detectors, asked by the training thread and by the background one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Lock

from postmortem.detectors import Alarm, Row, live

_ASKED = (
    "loss_spike",
    "loss_cusum",
    "grad_norm_spike",
    "update_rms",
    "lr_discontinuity",
    "loss_scale",
    "non_finite",
)
"""Not `grad_norm_shift`, which is sure only when it is over, nor `suspected_non_finite`: a loss that was not handed
over is not yet one that is blank."""


_MOST_ROWS = 256
"""Rows after which they are looked at by whoever brings the next."""


class Alarms:
    """Alarms that begin an episode of their column: each is told of once, until `calm` steps have passed in silence.

    Rows are taken down by one comparison a column and looked at later, all together, unless one stands out. Safe to
    call from two threads. Values of one column come in order; those that do not are not looked at.
    """

    def __init__(self, calm: int = 50) -> None:
        self._calm = calm
        self._live = live(_ASKED)
        self._lock = Lock()
        self._rows: deque[tuple[int, Row]] = deque()
        self._levels = tuple(self._live.levels().items())
        self._open: set[tuple[str, str, int]] = set()
        self._until: dict[str, int] = {}

    def take(self, step: int, row: Row, odd: Sequence[str] | None) -> bool:
        """Take down a row, of which `odd` columns are not finite: whether it is to be looked at now."""
        self._rows.append((step, dict(row)))
        for column, level in self._levels:
            value = row.get(column)
            if value is not None and not value <= level:
                return True
        fresh = [name for name in odd or () if self.begins(step, f"odd {name}")]
        return bool(fresh) or len(self._rows) >= _MOST_ROWS

    def look(self) -> list[tuple[int, Row, list[Alarm]]]:
        """Look at the rows that were taken down; those with which an episode begins, and its alarms."""
        found: list[tuple[int, Row, list[Alarm]]] = []
        with self._lock:
            while self._rows:
                step, row = self._rows.popleft()
                told = self._live.take(step, row)
                if new := [a for a in told if self._is_new(a) and self.begins(step, _episode(a))]:
                    found.append((step, row, new))
            self._levels = tuple(self._live.levels().items())
        return found

    def begins(self, step: int, what: str) -> bool:
        """`what` was seen at `step`: whether it begins an episode rather than going on with one."""
        new = step > self._until.get(what, -1)
        self._until[what] = step + self._calm
        return new

    def rewound(self, step: int) -> None:
        """The run went back and goes on with `step`: what follows are new episodes."""
        with self._lock:
            self._rows.clear()
            self._live.rewound(step)
            self._levels = tuple(self._live.levels().items())
            self._open.clear()
            self._until.clear()

    def _is_new(self, alarm: Alarm) -> bool:
        known = alarm.key in self._open
        (self._open.add if alarm.state == "open" else self._open.discard)(alarm.key)
        return not known and alarm.state != "withdrawn"


def _episode(alarm: Alarm) -> str:
    return f"nonfinite {alarm.column}" if alarm.detector == "non_finite" else alarm.column
