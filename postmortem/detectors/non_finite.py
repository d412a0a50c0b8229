"""NaN and Inf in any column: always an event, without a threshold.

A gradient that is non-finite for a while, with a finite loss, is a skipped step: a minor kind. Where a loss scaler is
logged and explains every such step, it opens no incident.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors._model import (
    DIVERGED,
    RECOVERED,
    Alarm,
    Detector,
    Finding,
    Row,
    State,
    Stream,
    Telemetry,
    as_float,
    onset_interval,
)
from postmortem.detectors._steps import runs
from postmortem.incident import Kind
from postmortem.series import Series
from postmortem.stats import median

EPISODE_ROWS = 50
"""Non-finite rows this close together are one episode."""

_NOT_MEASURED = ("time", "tokens_per_s", "step_time_s", "clip_threshold")
"""Columns about the machine, not the training, and a setting: where nothing is clipped, its threshold is infinite."""

_GRADIENT = ("grad_norm", "grad_norm_clipped", "g2_over_v", "update_rms")
"""Columns that a skipped step makes non-finite without harm to the parameters."""

_SKIP_STEPS = 2
"""Steps after a skipped one within which the loss scale falls, and the loss would show the harm."""

_BEFORE_ROWS, _AFTER_ROWS = 50, 20
"""Rows before and after an episode whose finite values are its baseline, and the level where it settled."""


def _detect(t: Telemetry) -> Iterator[Finding]:
    loss = t.series("loss")
    for name in t.names:
        series = None if name in _NOT_MEASURED else t.series(name)
        if series is None or np.isfinite(series.value).all():
            continue
        bad = np.flatnonzero(~np.isfinite(series.value))
        for rows in runs(bad, EPISODE_ROWS):
            yield _episode(t, series, rows, loss)


def _episode(t: Telemetry, series: Series, bad: NDArray[np.intp], loss: Series | None) -> Finding:
    first, last = int(bad[0]), int(bad[-1])
    back = last + 1 if last + 1 < len(series) else None
    before, after = series.value[max(first - _BEFORE_ROWS, 0) : first], series.value[last + 1 : last + 1 + _AFTER_ROWS]
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    onset = int(series.step[first])
    skipped = back is not None and series.name.split("/")[0] in _GRADIENT and _loss_finite(loss, series, first, last)
    return Finding(
        detector="non_finite",
        kind="non_finite_gradient" if skipped else "non_finite",
        column=series.name,
        onset_step=onset,
        onset_interval=onset_interval(series.step, first),
        peak_step=onset,
        recovery_step=None if back is None else int(series.step[back]),
        peak=float(series.value[first]),
        baseline=float(median(before)) if before.size else float("nan"),
        scale=float("nan"),
        score=float("inf"),
        settled=float(median(after)) if after.size else None,
        outcome=DIVERGED if back is None else RECOVERED,
        figures={"rows": float(bad.size), "first_row": float(first == 0)},
        opens=not (skipped and _scaler_at_work(t, series.step[bad])),
    )


def _loss_finite(loss: Series | None, series: Series, first: int, last: int) -> bool:
    around = None if loss is None else loss.window(int(series.step[first]), int(series.step[last]) + _SKIP_STEPS)
    return around is not None and len(around) > 0 and bool(np.isfinite(around.value).all())


def _scaler_at_work(t: Telemetry, steps: NDArray[np.int64]) -> bool:
    """Whether each of these steps was skipped, or followed by a fall of the loss scale.

    Then dynamic loss scaling only probes its limit. Many falls in a short time are for the loss-scale detector.
    """
    skipped, scale = t.series("skipped"), t.series("loss_scale")
    if skipped is not None and all(skipped.at(int(step)) for step in steps):
        return True
    if scale is None:
        return False
    fell = scale.step[1:][np.diff(scale.value) < 0]
    return all(bool(((fell >= step) & (fell <= step + _SKIP_STEPS)).any()) for step in steps)


@dataclass(eq=False)
class _Episode:
    """Non-finite rows of one column, and what its kind depends on."""

    alarm: Alarm
    last: int  # step of the last non-finite row
    finite_rows: int = 0  # since then
    first_loss: int | None = None  # first step with a loss since the onset
    bad_loss: int | None = None  # first step with a non-finite loss
    all_skipped: bool = True  # every step so far was skipped
    await_fall: list[int] = field(default_factory=list[int])  # steps that a fall of the loss scale may still explain
    all_scaled: bool = True  # each earlier step was followed by such a fall

    def add(self, step: int, skipped: bool) -> None:
        """A non-finite row."""
        self.last, self.finite_rows = step, 0
        self.all_skipped &= skipped
        self.await_fall.append(step)

    def weigh(self, step: int, loss: float | None, fell: bool) -> None:
        """Note what the loss of `step` and a fall of the loss scale say about the kind."""
        if loss is not None:
            self.first_loss = step if self.first_loss is None else self.first_loss
            if loss - loss != 0.0 and self.bad_loss is None:
                self.bad_loss = step
        too_late = [bad_step for bad_step in self.await_fall if bad_step + _SKIP_STEPS < step]
        self.all_scaled &= not too_late
        self.await_fall = [s for s in self.await_fall if s + _SKIP_STEPS >= step and not fell]

    def loss_finite(self) -> bool:
        """Whether the loss was logged around the episode, and always finite."""
        until = self.last + _SKIP_STEPS
        bad = self.bad_loss is not None and self.bad_loss < until
        return self.first_loss is not None and self.first_loss < until and not bad


class _Stream(Stream):
    """Open episodes by column. They are reported at once, and settled after EPISODE_ROWS finite rows, or as soon as no
    further row matters."""

    def __init__(self) -> None:
        self._open: dict[str, _Episode] = {}
        self._scale: float | None = None
        self._scale_step = -1

    def add_row(self, step: int, row: Row) -> Sequence[Alarm]:
        """What changes with the row of `step`."""
        scale, before = None, self._scale
        if step > self._scale_step and (scale := as_float(row.get("loss_scale"))) is not None:
            self._scale, self._scale_step = scale, step
        odd = [name for name, value in row.items() if isinstance(value, float) and value - value != 0.0]
        if not odd and not self._open:
            return ()
        fell = scale is not None and before is not None and scale < before
        loss = as_float(row.get("loss"))
        for name in odd:
            if name not in _NOT_MEASURED and name not in self._open:
                self._open[name] = _Episode(Alarm("non_finite", "", str(name), step, step), step)
        alarms: list[Alarm] = []
        for name, episode in list(self._open.items()):
            if name in odd:
                episode.add(step, bool(as_float(row.get("skipped"))))
            elif as_float(row.get(name)) is not None:
                episode.finite_rows += 1
            episode.weigh(step, loss, fell)
            if episode.finite_rows >= EPISODE_ROWS:
                del self._open[name]
            alarms += self._changed_alarm(episode, step, over=episode.finite_rows >= EPISODE_ROWS)
        return alarms

    def end(self, step: int) -> Sequence[Alarm]:
        """What changes because `step` was the last row."""
        ended, self._open = self._open, {}
        return [alarm for episode in ended.values() for alarm in self._changed_alarm(episode, step, over=True)]

    def rewind_to(self, step: int) -> None:
        """The episodes are over: later rows begin new ones."""
        self._open.clear()
        self._scale, self._scale_step = None, step - 1

    def _changed_alarm(self, e: _Episode, step: int, over: bool) -> list[Alarm]:
        """The alarm, where it differs from the last report."""
        gradient = e.alarm.column.split("/")[0] in _GRADIENT
        skipped = gradient and e.finite_rows > 0 and e.loss_finite()
        kind = "non_finite_gradient" if skipped else "non_finite"
        opens = not (skipped and (e.all_skipped or (e.all_scaled and not e.await_fall)))
        sure = over or not gradient or (e.bad_loss is not None and e.bad_loss < e.last + _SKIP_STEPS)
        state: State = "settled" if sure else "open"
        if (kind, opens, state) == (e.alarm.kind, e.alarm.opens, e.alarm.state):
            return []
        e.alarm = replace(e.alarm, kind=kind, opens=opens, state=state, step=step)
        return [e.alarm]


KINDS = (
    Kind("non_finite", "non-finite loss", "fatal", "loss"),
    Kind("non_finite_gradient", "non-finite gradient", "minor"),
)

DETECTOR = Detector("non_finite", KINDS, _detect, _Stream)
