"""What batches do to states, without training: one forward and backward of each batch at each checkpoint.

It costs minutes where a replay costs hours, and asks PaLM's question first: a batch that is bad in every state is bad
data, one that is bad in some of them needs the state as well, and one that is bad in none did not do it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from postmortem.arithmetic import Mode, described
from postmortem.change import Window, shown
from postmortem.checkpoint.ranks import Ranks
from postmortem.errors import PostmortemError, UsageError
from postmortem.interventions import Scene
from postmortem.program import Placeable, measure
from postmortem.replay.active_changes import ActiveChanges
from postmortem.replay.build_program import build, saved_state, use_threads_of
from postmortem.replay.comparison import other_arithmetic
from postmortem.replay.run_replay import ProgramFailed
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.start_checkpoint import find_checkpoint, usable
from postmortem.replay.trust import factory_of, trusted_program
from postmortem.run import Run
from postmortem.run.recorded import RecordedRun
from postmortem.stats import robust_sigma
from postmortem.text import number, plain

NEAREST = 5  # checkpoints that are probed where none are named
REFERENCE = 16  # ordinary batches beside the suspect ones, by which a state says what is usual in it
SIGMAS = 6.0  # robust standard deviations over the usual
LOSS_MARGIN, NORM_FACTOR = 0.05, 2.0  # and at least this over it: a share of the loss, a multiple of the norm
LONGEST = 10_000  # batches of a window

Blame: TypeAlias = Literal["data", "interaction", "state", "undecided"]
OnMeasure: TypeAlias = Callable[[int, int], None]
"""Called with (measured, to measure in all)."""


@dataclass(frozen=True)
class Usual:
    """What ordinary batches show in a state: the median, and the limit over which one is out of the ordinary."""

    median: float
    limit: float


@dataclass(frozen=True)
class Probed:
    """The state before `step`. `loss` (nats per token) and `grad_norm` stand in the order of the window's batches, None
    where the program measures none; `bad` are the indices of those out of the ordinary. `broken`: even ordinary batches
    give no finite loss there."""

    step: int
    loss: tuple[float | None, ...]
    grad_norm: tuple[float | None, ...]
    usual_loss: Usual | None
    usual_grad_norm: Usual | None
    bad: tuple[int, ...]
    broken: bool


@dataclass(frozen=True)
class Probe:
    """The batches [first, last) of `window`, by state. `reference` are the ordinary batches measured beside them.

    blame: "data" where a batch is bad in every state, "interaction" in some, "state" in none; "undecided" where fewer
    than two sound states were there to ask. arithmetic: what the bits depend on and was other then; computed_with: what
    they come from now.
    """

    run: str
    window: Window
    reference: Window
    states: tuple[Probed, ...]
    blame: Blame
    text: str
    arithmetic: tuple[str, ...] = ()
    computed_with: str = ""


def probe(
    run: Run,
    window: Window,
    steps: Sequence[int] = (),
    *,
    program: str | None = None,
    trusted: bool = False,
    attempt: int | None = None,
    arithmetic: Mode = "recorded",
    on_measure: OnMeasure | None = None,
) -> Probe:
    """Measure the batches [first, last) of `window` in the states of the checkpoints at `steps`, by default the five
    that lie nearest to where the run consumed them. Under torch.distributed, every rank calls it.

    Raises:
        UsageError: no such checkpoint, or a program that is not trusted, cannot be built or cannot be measured.
        UnreadableInput: a checkpoint is damaged.
    """
    if window[1] - window[0] > LONGEST:
        raise UsageError(f"{shown(window)} holds more than {LONGEST} batches; probe a shorter window")
    factory = factory_of(trusted_program(run.manifest.program, program, trust=trusted))
    ranks = Ranks()
    recorded = RecordedRun(run, attempt, ranks.rank)
    use_threads_of(recorded, arithmetic)
    chosen = sorted(set(steps)) or nearest(recorded, window)
    reference = _reference(window)
    indices = (*range(*window), *range(*reference))
    done, states = 0, list[Probed]()
    for step in chosen:
        path = find_checkpoint(recorded, ReplaySpec(str(run.path), "", step, step + 1))
        held = [change for phase in recorded.phases if phase.from_step <= step for change in phase.changes]
        treatment = ActiveChanges(held, Scene(recorded, step, step + 1, lambda _: {}))
        model = build(factory, treatment.configured(recorded.config))
        if path is not None:
            model.load_state_dict(saved_state(path, ranks.rank, model))
            if isinstance(model, Placeable):
                model.place(step, recorded.index_at(step))
        edit = treatment.edit(model)
        found: list[tuple[float | None, float | None]] = []
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
            found.append((_figure(metrics.get("loss")), _figure(metrics.get("grad_norm"))))
            done += 1
            if on_measure is not None:
                on_measure(done, len(chosen) * len(indices))
        states.append(judged(step, window, found))
    blame, text = verdict(window, states)
    other = other_arithmetic(recorded, ranks.world)
    return Probe(plain(run.id), window, reference, tuple(states), blame, text, other, described())


def nearest(recorded: RecordedRun, window: Window) -> list[int]:
    """Steps of the checkpoints nearest to where the window begins; from scratch where there are none."""
    at = recorded.step_of(window[0])
    held = sorted({one.step for one in usable(recorded)}, key=lambda step: (abs(step - at), step))
    return sorted(held[:NEAREST]) or [0]


def judged(step: int, window: Window, found: Sequence[tuple[float | None, float | None]]) -> Probed:
    """What a state shows: (loss, gradient norm) of each batch of the window, then of the reference."""
    size = window[1] - window[0]
    losses, norms = [loss for loss, _ in found], [norm for _, norm in found]
    usual_loss, usual_norm = _usual(losses[size:], _loss_limit), _usual(norms[size:], _norm_limit)
    broken = usual_loss is None and any(loss is not None for loss in losses[size:])
    bad = () if broken else tuple(
        window[0] + row
        for row in range(size)
        if _over(losses[row], usual_loss) or _over(norms[row], usual_norm)
    )  # fmt: skip
    return Probed(step, tuple(losses[:size]), tuple(norms[:size]), usual_loss, usual_norm, bad, broken)


def verdict(window: Window, states: Sequence[Probed]) -> tuple[Blame, str]:
    """(what is to blame, a sentence that says why)."""
    sound = [state for state in states if not state.broken]
    broken = [state.step for state in states if state.broken]
    left_out = f"; {_the(broken)} left out: ordinary batches are not finite there" if broken else ""
    if not sound:
        return "undecided", f"no sound state to ask: ordinary batches are not finite in {_the(broken)}"
    worst = max(range(*window), key=lambda index: sum(index in state.bad for state in sound))
    bad = [state for state in sound if worst in state.bad]
    fine = [state.step for state in sound if worst not in state.bad]
    if not bad:
        where = f"no batch of {shown(window)} is out of the ordinary in {_the(fine)}"
        if len(sound) == 1:
            return "undecided", f"{where}, the only one asked{left_out}"
        return "state", f"{where}: the data alone do not do it; look at the state, the rate or the optimizer{left_out}"
    steps, how = [state.step for state in bad], _how(bad, worst - window[0])
    seen = f"batch {worst} is bad in {_the(steps)} ({how})"
    if len(sound) == 1:
        return "undecided", f"{seen}, the only one asked: another would tell whether it is the data alone{left_out}"
    if fine:
        return "interaction", f"{seen}, and ordinary in {_the(fine)}: it takes the data and the state{left_out}"
    every = f"batch {worst} is bad in every state asked, before steps {_and(steps)} ({how})"
    return "data", f"{every}: the data do it, whatever the state{left_out}"


def _reference(window: Window) -> Window:
    """The batches just before the window; those after it where there are too few."""
    first = window[0] - REFERENCE
    return (first, window[0]) if first >= 0 else (window[1], window[1] + REFERENCE)


def _figure(value: float | int | str | None) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _usual(values: Sequence[float | None], limit: Callable[[float, float], float]) -> Usual | None:
    """None where fewer than half of the reference gives a finite figure."""
    finite = np.array([value for value in values if value is not None and math.isfinite(value)])
    if finite.size * 2 < len(values) or not finite.size:
        return None
    median = float(np.median(finite))
    return Usual(median, limit(median, robust_sigma(finite)))


def _loss_limit(median: float, sigma: float) -> float:
    return median + max(SIGMAS * sigma, LOSS_MARGIN * abs(median))


def _norm_limit(median: float, sigma: float) -> float:
    return median + max(SIGMAS * sigma, (NORM_FACTOR - 1) * median)


def _over(value: float | None, usual: Usual | None) -> bool:
    return value is not None and usual is not None and not value <= usual.limit


def _the(steps: Sequence[int]) -> str:
    return f"the state before step {steps[0]}" if len(steps) == 1 else f"the states before steps {_and(steps)}"


def _and(steps: Sequence[int]) -> str:
    return f"{', '.join(map(str, steps[:-1]))} and {steps[-1]}"


def _how(states: Sequence[Probed], row: int) -> str:
    """The figure by which a batch is bad, beside the usual one, over all states where it is."""
    by_loss = [(state.loss[row], state.usual_loss) for state in states]
    by_norm = [(state.grad_norm[row], state.usual_grad_norm) for state in states]
    name, pairs = ("loss", by_loss) if any(_over(*pair) for pair in by_loss) else ("gradient norm", by_norm)
    return f"{name} {_range([value for value, _ in pairs])}, usual {_range([u.median for _, u in pairs if u])}"


def _range(values: Sequence[float | None]) -> str:
    """The smallest and the largest of the figures that are there."""
    there = [value for value in values if value is not None]
    finite = [value for value in there if math.isfinite(value)]
    if len(finite) < len(there):
        return number(next(value for value in there if not math.isfinite(value)))
    low, high = number(min(finite)), number(max(finite))
    return low if low == high else f"{low} to {high}"
