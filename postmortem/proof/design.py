"""Designs the experiment for one incident: which replays would confirm a cause, and which would refute it.

R0 null replay         the incident must appear again, or no replay can show a cure
R1 predicted changes   those that each hypothesis predicts something about
R2 placebos            changes of the same size that no hypothesis names
R3 data against state  the suspect data in another state, other data in the suspect state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from postmortem.assess.suspect import AWAY
from postmortem.change import Change, Window
from postmortem.diagnosis import Hypothesis, Incident, Prediction
from postmortem.errors import UsageError
from postmortem.interventions import build_intervention
from postmortem.proof.judge import NEAR, last_needed_step

MIN_PROBABILITY = 0.01  # probability from which a hypothesis is tested
MIN_TESTS, MAX_TESTS = 3, 5  # number of tested hypotheses
LEAD_STEPS = 4  # steps between the arms' common checkpoint and the first changed step
PLACEBOS, MAX_PLACEBO_BATCHES = 3, 16  # number of replays, batches of each
MARGIN = 10  # steps driven after the last step that is judged

Role = Literal["R1", "R2", "R3"]


@dataclass(frozen=True)
class Arm:
    """One replay of the experiment. `role`: its group. `from_checkpoint`: it starts from the run's own checkpoint,
    otherwise from R0's state just before the incident. `moved_to`: the batch index to which the suspect data are moved,
    so that the incident is looked for there; None looks at the old place."""

    role: Role
    changes: tuple[Change, ...]
    from_checkpoint: bool = False
    moved_to: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        text = "+".join(str(change) for change in self.changes)
        return f"{self.role}-" + "".join(c if c.isalnum() or c in ".+-" else "-" for c in text)

    @property
    def text(self) -> str:
        """What it changes, in words."""
        return ", ".join(build_intervention(change).text for change in self.changes)


@dataclass(frozen=True)
class Test:
    """One hypothesis and, for each of its predictions, the arms that test it: a prediction comes true if one of its
    arms shows it."""

    cause: str
    title: str
    likely: bool  # by the panels; an unlikely cause can be refuted, but not confirmed
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
    """The experiment: R0 drives [from_step, until), the arms drive [arms_start, until) from the state that R0 saved at
    `arms_start`. first: the first step at which the incident may appear in any arm. data_state_arms: group R3."""

    from_step: int
    arms_start: int
    first: int
    until: int
    window: Window
    tests: tuple[Test, ...]
    placebos: tuple[Arm, ...]
    data_state_arms: tuple[Arm, ...]

    def start(self, arm: Arm) -> int:
        """The step from which an arm is driven."""
        return self.from_step if arm.from_checkpoint else self.arms_start

    def steps(self, arm: Arm) -> int:
        """How many steps an arm drives."""
        return self.until - self.start(arm)


def design_experiment(
    incident: Incident, *, from_step: int, end: int | None = None, independent: bool = False
) -> Design:
    """The experiment for `incident`, from the checkpoint at `from_step`. It does not go past the `end` of the run, if
    the run ends soon after the incident: many loops cannot go further. `independent`: no arm needs a state of R0.

    Raises:
        UsageError: no hypothesis of the incident predicts the outcome of a replay.
    """
    tested = _choose_hypotheses(incident.hypotheses)
    if not tested:
        raise UsageError("no hypothesis of this incident predicts a replay that could test it; try a null replay")
    window = incident.skip_window or _suspect_window(tested) or (incident.onset_step, incident.peak_step + 1)
    length = min(window[1] - window[0], MAX_PLACEBO_BATCHES)
    just_before = max(from_step, incident.onset_step - (window[1] - window[0]) - 2 * length - LEAD_STEPS)
    suspect_step = incident.onset_step
    if incident.damaged_between is not None:  # R0's state just before the onset is damaged already
        just_before, suspect_step = from_step, incident.damaged_between[0]
    arms_start = from_step if independent else just_before
    destination = _move_destination(tested, window)
    data_state_arms = (
        Arm("R3", (Change("replace", (window,)),)),
        Arm("R3", (Change("move", (window,), (destination,)),), moved_to=destination),
    )
    reusable = {arm.changes: arm for arm in data_state_arms}
    tests = tuple(
        Test(
            hypothesis.cause,
            hypothesis.title,
            hypothesis.probability >= MIN_PROBABILITY,
            tuple((prediction, _arms_of_prediction(prediction, reusable)) for prediction in hypothesis.predictions),
        )
        for hypothesis in tested
    )
    farthest = max(
        [destination + 1, *(arm.moved_to + 1 for test in tests for arm in test.arms if arm.moved_to is not None)]
    )
    last = last_needed_step(incident)
    until = max(last, incident.onset_step + farthest - window[0]) + NEAR + MARGIN + 1
    if end is not None and end >= incident.onset_step + MARGIN:
        until = min(until, end)
    placebos = _placebos(window[0], length, suspect_step - arms_start)
    return Design(from_step, arms_start, just_before, until, window, tests, placebos, data_state_arms)


def _choose_hypotheses(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The likely hypotheses, but at least the best one and its nearest rivals. A hypothesis that predicts only R0 is
    decided by R0, without further replays."""
    testable = [
        hypothesis for hypothesis in hypotheses if any(prediction.changes for prediction in hypothesis.predictions)
    ]
    likely = [hypothesis for hypothesis in testable if hypothesis.probability >= MIN_PROBABILITY]
    return (likely if len(likely) >= MIN_TESTS else testable[:MIN_TESTS])[:MAX_TESTS]


def _suspect_window(tested: Sequence[Hypothesis]) -> Window | None:
    """The batches that the best hypothesis suspects, according to its predictions."""
    windows = [
        window for prediction in tested[0].predictions for change in prediction.changes for window in change.windows
    ]
    return windows[0] if windows else None


def _move_destination(tested: Sequence[Hypothesis], window: Window) -> int:
    """The batch index to which the suspect window is moved: where a hypothesis moves the same window, else a
    default."""
    changes = [
        change for hypothesis in tested for prediction in hypothesis.predictions for change in prediction.changes
    ]
    destinations = [
        _destination_of(change) for change in changes if change.name == "move" and change.windows == (window,)
    ]
    return destinations[0] if destinations else window[1] + AWAY


def _destination_of(move: Change) -> int:
    """The batch index to which a change moves its window."""
    return int(move.values[0])


def _arms_of_prediction(prediction: Prediction, existing: Mapping[tuple[Change, ...], Arm]) -> tuple[Arm, ...]:
    """The arms of a prediction, one for each alternative change; an arm in `existing` with the same change is
    reused."""
    follows = prediction.outcome == "follows"
    return tuple(
        existing.get((change,)) or Arm("R1", (change,), prediction.early, _destination_of(change) if follows else None)
        for change in prediction.changes
    )


def _placebos(first: int, length: int, ahead: int) -> tuple[Arm, ...]:
    """Skips of `length` batches just before the suspect ones, which are consumed in the `ahead` steps before those: a
    skip after them could cure nothing. Where there is no room for a skip, meaningless noise replaces it."""
    starts = [first - n * length for n in (1, 2) if ahead > n * length and first >= n * length]
    skips = [Arm("R2", (Change("skip", ((start, start + length),)),)) for start in starts]
    return (*skips, *(Arm("R2", (Change("noise", values=(n,)),)) for n in range(1, PLACEBOS + 1 - len(skips))))
