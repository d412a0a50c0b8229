"""What departs while a run is recorded: the live detectors, asked by the training thread and by the background one."""

from __future__ import annotations

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


class Alarms:
    """Alarms that begin an episode of their column: each is told of once, until `calm` steps have passed in silence.

    Safe to call from two threads. Values of one column come in order; those that do not are not looked at.
    """

    def __init__(self, calm: int = 50) -> None:
        self._calm = calm
        self._live = live(_ASKED)
        self._lock = Lock()
        self._open: set[tuple[str, str, int]] = set()
        self._until: dict[str, int] = {}

    def take(self, step: int, row: Row) -> Sequence[Alarm]:
        """Take in a row; the alarms that begin an episode with it."""
        with self._lock:
            if not (told := self._live.take(step, row)):
                return ()
            return [alarm for alarm in told if self._is_new(alarm) and self._begins(step, _episode(alarm))]

    def begins(self, step: int, what: str) -> bool:
        """Something else was seen at `step`: whether it begins an episode of `what` rather than going on with one."""
        with self._lock:
            return self._begins(step, what)

    def rewound(self, step: int) -> None:
        """The run went back and goes on with `step`: what follows are new episodes."""
        with self._lock:
            self._live.rewound(step)
            self._open.clear()
            self._until.clear()

    def _is_new(self, alarm: Alarm) -> bool:
        known = alarm.key in self._open
        (self._open.add if alarm.state == "open" else self._open.discard)(alarm.key)
        return not known and alarm.state != "withdrawn"

    def _begins(self, step: int, what: str) -> bool:
        new = step > self._until.get(what, -1)
        self._until[what] = step + self._calm
        return new


def _episode(alarm: Alarm) -> str:
    return f"nonfinite {alarm.column}" if alarm.detector == "non_finite" else alarm.column
