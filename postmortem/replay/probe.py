"""What batches do to states, without training: one forward and backward of each batch at each checkpoint.

It costs minutes where a replay costs hours, and asks PaLM's question first: a batch that is bad in every state is bad
data, one that is bad in some of them needs the state as well, and one that is bad in none did not do it alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from postmortem.checkpoint.ranks import Ranks
from postmortem.errors import PostmortemError, UsageError
from postmortem.program import Program, SkipWindow
from postmortem.replay.building import build, saved_state, use_threads_of
from postmortem.replay.interventions import Scene
from postmortem.replay.measuring import measure
from postmortem.replay.order import Order
from postmortem.replay.recorded import Recorded
from postmortem.replay.starting import find_checkpoint, usable
from postmortem.replay.treatment import Treatment
from postmortem.replay.trust import factory_of, trusted_program
from postmortem.run import Run
from postmortem.text import number, plain

NEAREST = 5  # checkpoints that are probed where none are named
REFERENCE = 16  # ordinary batches beside the suspect ones, by which a state says what is usual in it
SIGMAS = 6.0  # robust standard deviations over the usual
LOSS_MARGIN, NORM_FACTOR = 0.05, 2.0  # and at least this much over it: a share of the loss, a multiple of the norm
LONGEST = 10_000  # batches

OnMeasure = Callable[[int, int], None]
"""Called with (measured, to measure in all)."""


@dataclass(frozen=True)
class Usual:
    """What ordinary batches show in a state: the median, and the limit over which a batch is out of the ordinary."""

    median: float
    limit: float


@dataclass(frozen=True)
class Probed:
    """One state, that of the checkpoint before `step`. `loss` and `grad_norm` stand in the order of the window's
    batches, None where the program measures none; `bad` are the indices of those out of the ordinary. `broken`: even
    ordinary batches give no finite loss there."""

    step: int
    loss: tuple[float | None, ...]
    grad_norm: tuple[float | None, ...]
    usual_loss: Usual | None
    usual_grad_norm: Usual | None
    bad: tuple[int, ...]
    broken: bool


@dataclass(frozen=True)
class Probe:
    """Batches [first, last) of `window` by state. `reference` are the ordinary batches that were measured beside them.

    blame: "data" where a batch is bad in every state, "interaction" in some, "state" in none; "undecided" where too few
    sound states were there to ask.
    """

    run: str
    window: SkipWindow
    reference: SkipWindow
    states: tuple[Probed, ...]
    blame: Literal["data", "interaction", "state", "undecided"]
    text: str

    @property
    def batches(self) -> range:
        """Indices of the window's batches."""
        return range(*self.window)

    def to_json(self) -> str:
        """Strict JSON: what is not finite is one of the strings "NaN", "Infinity", "-Infinity"."""
        return json.dumps(as_json(asdict(self)), indent=1, allow_nan=False) + "\n"


def probe(
    run: Run,
    window: SkipWindow,
    steps: Sequence[int] = (),
    *,
    program: str | None = None,
    trusted: bool = False,
    attempt: int | None = None,
    on_measure: OnMeasure | None = None,
) -> Probe:
    """Measure the batches [first, last) of `window` in the states of the checkpoints at `steps`, by default the five
    that lie nearest to where the run consumed them. Under torch.distributed, every rank calls it.

    Raises:
        UsageError: no such checkpoint, or a program that cannot be built, measured or trusted.
        UnreadableInput: a checkpoint is damaged.
    """
    if window[1] - window[0] > LONGEST:
        raise UsageError(f"[{window[0]}, {window[1]}) holds more than {LONGEST} batches; probe a shorter window")
    ranks = Ranks()
    recorded = Recorded(run, attempt, ranks.rank)
    factory = factory_of(trusted_program(run.manifest.program, program, trust=trusted))
    use_threads_of(recorded)
    chosen = sorted(set(steps)) or nearest(recorded, window)
    reference = _reference(window)
    indices = [*range(*window), *range(*reference)]
    states: list[Probed] = []
    for number_, step in enumerate(chosen):
        path = find_checkpoint(recorded, Order(str(run.path), "", step, step + 1, attempt=attempt))
        held = [change for phase in recorded.phases if phase.from_step <= step for change in phase.changes]
        treatment = Treatment(held, Scene(recorded, step, step + 1, _none))
        model = build(factory, treatment.configured(recorded.config))
        if path is not None:
            model.load_state_dict(saved_state(path, ranks.rank, model))
        edit = treatment.edit(model)
        found: list[tuple[float | None, float | None]] = []
        for index in indices:
            found.append(_measured(model, step, index, lambda index: edit(step, model.batch(index))))
            if on_measure is not None:
                on_measure(number_ * len(indices) + len(found), len(chosen) * len(indices))
        states.append(judged(step, window, found))
    blame, text = verdict(window, states)
    return Probe(plain(run.id), window, reference, tuple(states), blame, text)
