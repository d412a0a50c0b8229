"""What the replays of an incident have shown about its remedies, whether or not they decided its cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from postmortem.change import Change, Window
from postmortem.diagnosis import Experiment

_DATA = ("replace", "skip")  # changes after which the model does not see the batches of their window


@dataclass(frozen=True)
class Shown:
    """The replays that were judged from their rows: the changes with which the incident was cured, those with which it
    stayed, and the windows of batches that took it along to where they were moved.

    None of these where a placebo cures as well or could not be driven, or the incident did not appear again without a
    change: then a cure may be chance.
    """

    cured: tuple[Change, ...] = ()
    failed: tuple[Change, ...] = ()
    carried: tuple[Window, ...] = ()

    @classmethod
    def by(cls, experiments: Iterable[Experiment]) -> Shown:
        """What `experiments` on one incident have shown."""
        judged = [experiment for experiment in experiments if not experiment.unchecked]
        if any(experiment.role in ("R0", "R2") and experiment.outcome != "persists" for experiment in judged):
            return cls()
        alone = [(e.changes[0], e.outcome) for e in judged if e.role not in ("R0", "R2") and len(e.changes) == 1]
        return cls(
            tuple(dict.fromkeys(change for change, outcome in alone if outcome == "cured")),
            tuple(dict.fromkeys(change for change, outcome in alone if outcome == "persists")),
            tuple(change.windows[0] for change, outcome in alone if outcome == "follows" and len(change.windows) == 1),
        )

    @property
    def batches(self) -> Window | None:
        """The batches without which the incident was cured."""
        windows = (change.windows[0] for change in self.cured if change.name in _DATA and len(change.windows) == 1)
        return next(windows, None)

    @property
    def carries(self) -> bool:
        """Whether these batches also took the incident along."""
        return self.batches in self.carried

    @property
    def rate(self) -> float | None:
        """The largest factor below 1 of the learning rate that cured the incident."""
        return max(_rate_factors(self.cured), default=None)

    @property
    def failed_rate(self) -> float | None:
        """The smallest factor below 1 that did not."""
        return min(_rate_factors(self.failed), default=None)

    @property
    def fix(self) -> tuple[Change, ...] | None:
        """The changes of a replay that repeats what cured it; None where nothing did. Batches are left out: the run has
        no others to put in their place."""
        if self.batches is not None:
            return (Change("skip", (self.batches,)),)
        if self.rate is not None:
            return (Change("lr-scale", values=(self.rate,)),)
        return self.cured[:1] or None


NOTHING = Shown()


def _rate_factors(changes: Iterable[Change]) -> list[float]:
    scales = (change.values[0] for change in changes if change.name == "lr-scale" and len(change.values) == 1)
    return [float(factor) for factor in scales if isinstance(factor, int | float) and factor < 1]
