"""Runs for the two versions of the detectors, and what each version reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from postmortem.detectors import Alarm, Telemetry, detectors, live
from postmortem.series import Series

Report = tuple[str, str, str, int]
"""Detector, kind, column, onset step."""


@dataclass
class Followed:
    """What the row-by-row version reported, in order: each alarm with the row after which it came (the last row, for
    alarms at the end)."""

    alarms: list[tuple[int, Alarm]] = field(default_factory=list[tuple[int, Alarm]])

    @property
    def last(self) -> dict[tuple[str, str, int], Alarm]:
        """The last report of each alarm."""
        return {alarm.key: alarm for _, alarm in self.alarms}

    @property
    def settled(self) -> set[Report]:
        """What is settled when the run is over."""
        return {(a.detector, a.kind, a.column, a.onset_step) for a in self.last.values() if a.state == "settled"}


def rows(t: Telemetry) -> Iterator[tuple[int, dict[str, float]]]:
    """A run as a live loop logs it: step, and the columns of its row."""
    series = {name: s for name in t.names if (s := t.series(name)) is not None}
    logged = {name: dict(zip(s.step.tolist(), s.value.tolist(), strict=True)) for name, s in series.items()}
    for step in t.row_steps.tolist():
        yield step, {name: values[step] for name, values in logged.items() if step in values}


def follow(t: Telemetry, names: Sequence[str] | None = None) -> Followed:
    """Pass every row of a run to the row-by-row version, and its end."""
    followed, watching = Followed(), live(names)
    for row, (step, values) in enumerate(rows(t)):
        followed.alarms += [(row, alarm) for alarm in watching.add_row(step, values)]
    followed.alarms += [(t.row_steps.size - 1, alarm) for alarm in watching.end()]
    return followed


def offline(t: Telemetry, names: Sequence[str] | None = None) -> set[Report]:
    """What the detectors with both versions report of the whole run."""
    both = [d for d in detectors() if d.stream is not None and (names is None or d.name in names)]
    with np.errstate(all="ignore"):
        return {(f.detector, f.kind, f.column, f.onset_step) for d in both for f in d.detect(t)}


def departures(seed: int) -> Telemetry:
    """A run in which any column may depart, and several times: rate, loss scale, skips, loss, gradient norm."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([40, 150, 400, 1200]))
    t = np.arange(n)
    steps = t * int(rng.choice([1, 1, 10]))

    def somewhere() -> int:
        return int(rng.integers(n))

    lr = _schedule(rng, n)
    for _ in range(rng.integers(3)):
        at = somewhere()
        lr[at : at + int(rng.choice([1, 3, 20, n]))] *= rng.choice([0.1, 0.5, 2, 10])
    scale = 65536.0 * 2.0 ** -np.cumsum((rng.random(n) < rng.choice([0.0, 0.01, 0.05])) - 0.5 * (rng.random(n) < 0.01))
    skipped = (rng.random(n) < rng.choice([0.01, 0.05])).astype(float)
    at = somewhere()
    skipped[at : at + rng.integers(6)] = 1
    if rng.random() < 0.5:
        skipped = np.cumsum(skipped)
    loss, logged = 2.5 + 0.02 * rng.standard_normal(n), np.ones(n, dtype=bool)
    norm = np.exp(0.2 * rng.standard_normal(n))
    for _ in range(rng.integers(4)):
        at = somewhere()
        norm[at : at + rng.integers(1, 4)] = rng.choice([np.nan, np.inf])
    if rng.random() < 0.3:
        at = somewhere()
        loss[at : at + rng.integers(1, 60)] = np.nan
    if rng.random() < 0.3:
        at = somewhere()
        loss[at : at + int(rng.choice([5, n]))] = 0.0
    if rng.random() < 0.4:
        at = somewhere()
        logged[at : at + rng.integers(5, 80)] = False
    if rng.random() < 0.2:
        logged &= t % 3 == 0
    if rng.random() < 0.5:
        norm[somewhere() :] *= rng.choice([0.3, 0.5, 2, 4])
    columns = {"lr": lr, "loss": loss, "grad_norm": norm}
    columns |= {"loss_scale": scale} if rng.random() < 0.7 else {}
    columns |= {"skipped": skipped} if rng.random() < 0.6 else {}
    return _telemetry(steps, columns, logged)


def _schedule(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """A rate with a warmup, and one of four courses after it."""
    t = np.arange(n)
    lr = 3e-4 * np.minimum((t + 1) / rng.integers(1, 100), 1.0)
    shape = rng.choice(4, p=[0.35, 0.25, 0.25, 0.15])
    if shape == 1:
        lr *= 0.5 * (1 + np.cos(np.pi * t / n))
    elif shape == 2:
        for at in rng.integers(0, n, 3):
            lr[at:] *= 0.3
    elif shape == 3:  # warm restarts
        period = int(rng.integers(20, 100))
        lr = 3e-4 * 0.5 * (1 + np.cos(np.pi * (t % period) / period))
    return lr


def excursions(seed: int) -> Telemetry:
    """A loss, and a gradient norm made of it, with up to five spikes, shifts and drifts in noise of any kind."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([60, 300, 1_500, 4_000, 9_000], p=[0.2, 0.3, 0.3, 0.1, 0.1]))
    t = np.arange(n)
    noise = rng.standard_normal(n) if rng.random() < 0.6 else rng.standard_t(int(rng.integers(3, 7)), n)
    if rng.random() < 0.2:
        noise = np.convolve(noise, np.ones(20) / 5, "same")
    if rng.random() < 0.2:
        noise += 3 * np.sin(t / rng.integers(20, 200))
    loss = 2.5 + rng.choice([0, 8]) * np.exp(-t / rng.integers(50, 1000)) + rng.choice([0.003, 0.02, 0.1]) * noise
    for _ in range(rng.integers(6)):
        at, height = int(rng.integers(n)), float(rng.choice([0.1, 0.3, 1, 3]))
        since = t[at:] - at
        shapes = (since == 0, np.exp(-since / rng.integers(3, 200)), since >= 0, since < rng.integers(2, 400))
        kind = int(rng.integers(5))
        loss[at:] += np.minimum(0.01 * since, height) if kind == 4 else height * shapes[kind]
    loss[rng.integers(0, n, int(rng.choice([0, 3])))] = np.nan
    columns = {"loss": loss, "grad_norm": np.exp(loss - 2), "update_rms": np.abs(loss)}
    columns["loss"] = loss - 2.5 * (rng.random() < 0.15)
    return _telemetry(t, columns, np.ones(n, dtype=bool))


def _telemetry(
    steps: NDArray[np.int64], columns: dict[str, NDArray[np.float64]], logged: NDArray[np.bool_]
) -> Telemetry:
    """Columns logged at `steps`, the loss only where it was."""
    series = {name: Series(name, steps, values) for name, values in columns.items()}
    series["loss"] = Series("loss", steps[logged], columns["loss"][logged])
    return Telemetry(series.get, tuple(series), steps, lambda name: None)
