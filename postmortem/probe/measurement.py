"""Measures batches in the states of several checkpoints, without training: one forward and backward pass for each.

A probe takes minutes where a replay takes hours, and asks PaLM's question first: a batch that is bad in every state is
bad data; a batch that is bad in some states needs the state as well; a batch that is bad in no state is not the cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from postmortem.arithmetic import Mode, describe_arithmetic
from postmortem.change import Window, format_window
from postmortem.checkpoint.ranks import Ranks
from postmortem.errors import PostmortemError, UsageError
from postmortem.interventions import ReplayContext
from postmortem.program import Placeable, measure
from postmortem.replay.active_changes import ActiveChanges
from postmortem.replay.build_program import build_program, read_saved_state, set_recorded_threads
from postmortem.replay.comparison import describe_other_arithmetic
from postmortem.replay.run_replay import ProgramFailed
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.start_checkpoint import find_checkpoint, usable_checkpoints
from postmortem.replay.trust import NamedProgram, load_factory, trusted_program
from postmortem.run import Run
from postmortem.run.recorded import RecordedRun
from postmortem.stats import robust_sigma
from postmortem.text import listed, number, plain

NEAREST = 5  # checkpoints that are probed by default
REFERENCE = 16  # ordinary batches that are measured, too: they show what is usual in a state
SIGMAS = 6.0  # robust standard deviations above the median
LOSS_MARGIN, NORM_FACTOR = 0.05, 2.0  # and at least: a share of the loss, a multiple of the norm
MAX_BATCHES = 10_000  # in a window

Blame: TypeAlias = Literal["data", "interaction", "state", "undecided"]
OnMeasure: TypeAlias = Callable[[int, int], None]
"""Called with (measured, to measure in all)."""


@dataclass(frozen=True)
class UsualRange:
    """What is usual in a state: the median of the ordinary batches, and the limit above which a batch is unusual."""

    median: float
    limit: float


@dataclass(frozen=True)
class StateProbe:
    """What the state before `step` shows. `loss` (nats per token) and `grad_norm` have one value for each batch of the
    window, None if the program does not measure it; `bad` are the indices of the unusual batches. `broken`: not even
    the ordinary batches have a finite loss in this state."""

    step: int
    loss: tuple[float | None, ...]
    grad_norm: tuple[float | None, ...]
    usual_loss: UsualRange | None
    usual_grad_norm: UsualRange | None
    bad: tuple[int, ...]
    broken: bool


@dataclass(frozen=True)
class ProbeResult:
    """The batches [first, last) of `window` in each state. `reference` are the ordinary batches measured beside them.

    blame: "data" if a batch is bad in every state, "interaction" if in some states, "state" if in none; "undecided" if
    fewer than two sound states were probed. arithmetic: what bits depend on and what differs from the run;
    computed_with: what this probe computed with.
    """

    run: str
    window: Window
    reference: Window
    states: tuple[StateProbe, ...]
    blame: Blame
    text: str
    arithmetic: tuple[str, ...] = ()
    computed_with: str = ""


def probe_batches(
    run: Run,
    window: Window,
    steps: Sequence[int] = (),
    *,
    program: str | None = None,
    trusted: bool = False,
    announced: NamedProgram | None = None,
    attempt: int | None = None,
    arithmetic: Mode = "recorded",
    on_measure: OnMeasure | None = None,
) -> ProbeResult:
    """Measure the batches [first, last) of `window` in the states of the checkpoints at `steps`, by default the five
    that are nearest to where the run consumed them. Under torch.distributed, every rank calls it. `announced` is the
    program as the user was told of it; without it, `program` is looked up, or what the run names if it is `trusted`.

    Raises:
        UsageError: there is no such checkpoint, or the program is not trusted, cannot be built or cannot be measured.
        UnreadableInput: a checkpoint is damaged.
    """
    if window[1] - window[0] > MAX_BATCHES:
        raise UsageError(f"{format_window(window)} has more than {MAX_BATCHES} batches; probe a shorter window")
    ranks = Ranks()
    named = announced or trusted_program(run.manifest.program, program, trust=trusted)
    factory = load_factory(named, elsewhere=not ranks.first)
    recorded = RecordedRun(run, attempt, ranks.rank)
    set_recorded_threads(recorded, arithmetic)
    chosen_steps = sorted(set(steps)) or nearest_checkpoints(recorded, window)
    reference = _reference_window(window)
    indices = (*range(*window), *range(*reference))
    measured, states = 0, list[StateProbe]()
    for step in chosen_steps:
        path = find_checkpoint(recorded, ReplaySpec(str(run.path), "", step, step + 1), finite=False)
        active = [
            change for phase in recorded.earlier_change_sets if phase.from_step <= step for change in phase.changes
        ]
        changes = ActiveChanges(active, ReplayContext(recorded, step, step + 1, lambda _: {}))
        model = build_program(factory, changes.configured(recorded.config))
        if path is not None:
            model.load_state_dict(read_saved_state(path, ranks.rank, model, allow_nonfinite=True))
            if isinstance(model, Placeable):
                model.place(step, recorded.batch_index_at(step))
        edit = changes.edit(model)
        figures: list[tuple[float | None, float | None]] = []
        for index in indices:
            try:
                metrics = measure(model, edit(step, model.batch(index))).metrics
            except PostmortemError:
                raise
            except Exception as error:
                raise ProgramFailed(
                    f"the program failed on batch {index} in the state before step {step}: {type(error).__name__}: "
                    f"{plain(error, 300)}. POSTMORTEM_DEBUG=1 shows where it failed"
                ) from error
            figures.append((_as_float(metrics.get("loss")), _as_float(metrics.get("grad_norm"))))
            measured += 1
            if on_measure is not None:
                on_measure(measured, len(chosen_steps) * len(indices))
        states.append(judge_state(step, window, figures))
    blame, text = place_blame(window, states)
    other_arithmetic = describe_other_arithmetic(recorded, ranks.world)
    return ProbeResult(
        plain(run.id), window, reference, tuple(states), blame, text, other_arithmetic, describe_arithmetic()
    )


def nearest_checkpoints(recorded: RecordedRun, window: Window) -> list[int]:
    """Steps of the checkpoints nearest to the start of the window; 0, from scratch, if there are none."""
    onset = recorded.step_of_batch(window[0])
    steps = sorted(
        {checkpoint.step for checkpoint in usable_checkpoints(recorded)}, key=lambda step: (abs(step - onset), step)
    )
    return sorted(steps[:NEAREST]) or [0]


def judge_state(step: int, window: Window, figures: Sequence[tuple[float | None, float | None]]) -> StateProbe:
    """Judge a state by its (loss, gradient norm) for each batch of the window, and then of the reference."""
    count = window[1] - window[0]
    losses, norms = [loss for loss, _ in figures], [norm for _, norm in figures]
    usual_loss, usual_norm = _usual_range(losses[count:], _loss_limit), _usual_range(norms[count:], _norm_limit)
    broken = usual_loss is None and any(loss is not None for loss in losses[count:])
    bad = () if broken else tuple(
        window[0] + row
        for row in range(count)
        if _exceeds(losses[row], usual_loss) or _exceeds(norms[row], usual_norm)
    )  # fmt: skip
    return StateProbe(step, tuple(losses[:count]), tuple(norms[:count]), usual_loss, usual_norm, bad, broken)


def place_blame(window: Window, states: Sequence[StateProbe]) -> tuple[Blame, str]:
    """(what is to blame, a sentence that says why)."""
    sound = [state for state in states if not state.broken]
    broken = [state.step for state in states if state.broken]
    left_out = f"; {_states_text(broken)} left out: ordinary batches are not finite there" if broken else ""
    if not sound:
        return "undecided", f"there is no sound state: ordinary batches are not finite in {_states_text(broken)}"
    worst = max(range(*window), key=lambda index: sum(index in state.bad for state in sound))
    bad = [state for state in sound if worst in state.bad]
    normal_steps = [state.step for state in sound if worst not in state.bad]
    if not bad:
        shown = f"no batch of {format_window(window)} is unusual in {_states_text(normal_steps)}"
        if len(sound) == 1:
            return "undecided", f"{shown}, the only probed state{left_out}"
        return (
            "state",
            f"{shown}: the data alone do not cause it; look at the state, the learning rate or the optimizer{left_out}",
        )
    steps, evidence = [state.step for state in bad], _evidence_text(bad, worst - window[0])
    shown = f"batch {worst} is bad in {_states_text(steps)} ({evidence})"
    if len(sound) == 1:
        return (
            "undecided",
            f"{shown}, the only probed state: a second state would show whether the data alone are to blame{left_out}",
        )
    if normal_steps:
        return (
            "interaction",
            f"{shown}, and usual in {_states_text(normal_steps)}: the data and the state cause it together{left_out}",
        )
    shown = f"batch {worst} is bad in every probed state, before steps {listed(steps)} ({evidence})"
    return "data", f"{shown}: the data cause it, in any state{left_out}"


def _reference_window(window: Window) -> Window:
    """The batches just before the window, or those after it if there are too few."""
    first = window[0] - REFERENCE
    return (first, window[0]) if first >= 0 else (window[1], window[1] + REFERENCE)


def _as_float(value: float | str | None) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _usual_range(values: Sequence[float | None], limit: Callable[[float, float], float]) -> UsualRange | None:
    """None if fewer than half of the reference values are finite."""
    finite = np.array([value for value in values if value is not None and math.isfinite(value)])
    if finite.size * 2 < len(values) or not finite.size:
        return None
    median = float(np.median(finite))
    return UsualRange(median, limit(median, robust_sigma(finite)))


def _loss_limit(median: float, sigma: float) -> float:
    return median + max(SIGMAS * sigma, LOSS_MARGIN * abs(median))


def _norm_limit(median: float, sigma: float) -> float:
    return median + max(SIGMAS * sigma, (NORM_FACTOR - 1) * median)


def _exceeds(value: float | None, usual: UsualRange | None) -> bool:
    return value is not None and usual is not None and not value <= usual.limit


def _states_text(steps: Sequence[int]) -> str:
    return f"the state before step {steps[0]}" if len(steps) == 1 else f"the states before steps {listed(steps)}"


def _evidence_text(states: Sequence[StateProbe], row: int) -> str:
    """The value by which a batch is bad, and the usual value, over all states in which it is bad."""
    by_loss = [(state.loss[row], state.usual_loss) for state in states]
    by_norm = [(state.grad_norm[row], state.usual_grad_norm) for state in states]
    name, pairs = ("loss", by_loss) if any(_exceeds(*pair) for pair in by_loss) else ("gradient norm", by_norm)
    values, medians = [value for value, _ in pairs], [usual.median for _, usual in pairs if usual]
    return f"{name} {_range_text(values)}, usual {_range_text(medians)}"


def _range_text(values: Sequence[float | None]) -> str:
    """The smallest and the largest of the values that are not None."""
    measured = [value for value in values if value is not None]
    finite = [value for value in measured if math.isfinite(value)]
    if len(finite) < len(measured):
        return number(next(value for value in measured if not math.isfinite(value)))
    low, high = number(min(finite)), number(max(finite))
    return low if low == high else f"{low} to {high}"
