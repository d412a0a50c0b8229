"""The experiment for one incident: which replays would confirm a cause, and which would refute it.

R0 null replay         the incident must appear again, or nothing can be shown by making it go
R1 the named change    of each hypothesis, with what else it predicts
R2 placebos            changes of the same size that no hypothesis names
R3 data against state  the suspect data in another state, other data in the suspect state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from postmortem.assess.experiments import AWAY
from postmortem.change import Change, Window
from postmortem.diagnosis import Hypothesis, Incident, Prediction
from postmortem.errors import UsageError
from postmortem.experiment.judge import NEAR, last_of
from postmortem.interventions import make

LIKELY = 0.01  # probability from which a hypothesis is worth its replays
FEWEST, MOST = 3, 5  # hypotheses that are tested
BEFORE = 4  # steps between the arms' common checkpoint and the first that an arm changes
PLACEBOS, LONGEST_PLACEBO = 3, 16  # replays, batches
MARGIN = 10  # steps after the last place asked about

Role = Literal["R1", "R2", "R3"]


@dataclass(frozen=True)
class Arm:
    """One replay of the experiment. `early`: from the run's own checkpoint, else from R0's state just before the
    incident. `asks` is the batch at whose new place the incident is looked for, None for its old one."""

    role: Role
    changes: tuple[Change, ...]
    early: bool = False
    asks: int | None = None

    @property
    def name(self) -> str:
        """A folder name."""
        text = "+".join(str(change) for change in self.changes)
        return f"{self.role}-" + "".join(c if c.isalnum() or c in ".+-" else "-" for c in text)

    @property
    def text(self) -> str:
        """What it changes, in words."""
        return ", ".join(make(change).text for change in self.changes)


@dataclass(frozen=True)
class Test:
    """One hypothesis and, for each of its predictions, the arms that decide it: one that shows it is enough."""

    cause: str
    title: str
    likely: bool  # by the panels; what they give no weight can be refuted, and not confirmed
    predictions: tuple[tuple[Prediction, tuple[Arm, ...]], ...]

    @property
    def first_arms(self) -> tuple[Arm, ...]:
        """The first arm of each prediction."""
        return tuple(arms[0] for _, arms in self.predictions if arms)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All arms, in order."""
        return tuple(arm for _, arms in self.predictions for arm in arms)


@dataclass(frozen=True)
class Design:
    """The experiment: R0 drives [from_step, until), the arms [lead, until) on what R0 saved at `lead`. first: the first
    step at which the incident may show in any of them."""

    from_step: int
    lead: int
    first: int
    until: int
    window: Window
    tests: tuple[Test, ...]
    placebos: tuple[Arm, ...]
    cross: tuple[Arm, ...]

    def start(self, arm: Arm) -> int:
        """The step that an arm is driven from."""
        return self.from_step if arm.early else self.lead

    def steps(self, arm: Arm) -> int:
        """How many steps an arm drives."""
        return self.until - self.start(arm)


def design(incident: Incident, *, from_step: int, end: int | None = None, apart: bool = False) -> Design:
    """The experiment for `incident` from the checkpoint at `from_step`, not past the `end` of the run where that lies a
    little behind the incident: many a loop cannot go further. `apart`: no arm waits for what R0 saves.

    Raises:
        UsageError: no hypothesis of the incident predicts anything that a replay could show.
    """
    tested = _tested(incident.hypotheses)
    if not tested:
        raise UsageError("no hypothesis of this incident names a replay that would test it; try a null replay")
    window = incident.skip_window or _window(tested) or (incident.onset_step, incident.peak_step + 1)
    length = min(window[1] - window[0], LONGEST_PLACEBO)
    near = max(from_step, incident.onset_step - (window[1] - window[0]) - 2 * length - BEFORE)
    lead = from_step if apart else near
    away = _away(tested, window)
    cross = (
        Arm("R3", (Change("replace", (window,)),)),
        Arm("R3", (Change("move", (window,), (away,)),), asks=away),
    )
    same = {arm.changes: arm for arm in cross}
    tests = tuple(
        Test(h.cause, h.title, h.probability >= LIKELY, tuple((p, _arms(p, same)) for p in h.predictions))
        for h in tested
    )
    farthest = max([away + 1, *(arm.asks + 1 for test in tests for arm in test.arms if arm.asks is not None)])
    seen = last_of(incident)
    until = max(seen, incident.onset_step + farthest - window[0]) + NEAR + MARGIN + 1
    if end is not None and end >= incident.onset_step + MARGIN:
        until = min(until, end)
    placebos = _placebos(window[0], length, incident.onset_step - lead)
    return Design(from_step, lead, near, until, window, tests, placebos, cross)


def _tested(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Those likely enough, the best and its nearest rivals at least. What only predicts that R0 shows nothing is
    decided by R0."""
    able = [h for h in hypotheses if any(p.changes for p in h.predictions)]
    likely = [h for h in able if h.probability >= LIKELY]
    return (likely if len(likely) >= FEWEST else able[:FEWEST])[:MOST]


def _window(tested: Sequence[Hypothesis]) -> Window | None:
    """The batches that the best hypothesis suspects, read off its own predictions."""
    spans = [window for p in tested[0].predictions for change in p.changes for window in change.windows]
    return spans[0] if spans else None


def _away(tested: Sequence[Hypothesis], window: Window) -> int:
    """The place that the suspect window is moved to: the one that a hypothesis names for the same window."""
    changes = [change for h in tested for p in h.predictions for change in p.changes]
    named = [_place(change) for change in changes if change.name == "move" and change.windows == (window,)]
    return named[0] if named else window[1] + AWAY


def _place(move: Change) -> int:
    """The batch from which on a window is consumed that was moved there."""
    return int(move.values[0])


def _arms(prediction: Prediction, same: Mapping[tuple[Change, ...], Arm]) -> tuple[Arm, ...]:
    """The arms of a prediction, one for each alternative, those in `same` where they change the same."""
    follows = prediction.outcome == "follows"
    return tuple(
        same.get((change,)) or Arm("R1", (change,), prediction.early, _place(change) if follows else None)
        for change in prediction.changes
    )


def _placebos(first: int, length: int, ahead: int) -> tuple[Arm, ...]:
    """Skips of as many batches just before the suspect ones, as far as the `ahead` steps before the onset reach: a skip
    after them could cure nothing. Meaningless noise stands in for those that find no room."""
    starts = [first - n * length for n in (1, 2) if ahead > n * length and first >= n * length]
    skips = [Arm("R2", (Change("skip", ((at, at + length),)),)) for at in starts]
    return (*skips, *(Arm("R2", (Change("noise", values=(n,)),)) for n in range(1, PLACEBOS + 1 - len(skips))))
