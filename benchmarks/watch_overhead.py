"""What watching adds to the lab's step: our watch at its default cadence, that with the losses of tokens at every step,
and trainscope at its smallest settings.

Copies of one lab training run in one process and take blocks of 100 steps in turn. Each records a row per step with
`Recorder`, and differs in what it does besides. The CPU time of the whole process is counted, with background threads.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from _measure import interval, machine, options, publish, rounds_of
from torch import Tensor, nn

from postmortem.lab.config import default_config
from postmortem.lab.model import MiniGPT
from postmortem.lab.program import LabProgram, build
from postmortem.record import Recorder
from postmortem.record.watch import Watch

GOAL = 0.02  # CPU of the lab's step: what was asked for
BLOCK = 100  # steps: ten samples of norms, two of layers, one hash
MINIMAL, THINNED = "trainscope, profile `minimal`", "… and only every tenth step traced"
ALONE, WATCH = "the lab's step, recorded", "`Recorder.watch`, default cadence"
TOKENS = "… and `watch.logits` at every step"


class Contender:
    """One lab training with its recorder; `after` is called with the loss before each row is logged."""

    def __init__(self, folder: Path) -> None:
        self.program: LabProgram = build(default_config(0, 2_000))
        self.recorder = Recorder(folder, provenance=False)
        self.after: Callable[[float], object] = lambda loss: None

    def block(self) -> float:
        """CPU seconds per step over one block."""
        start = time.process_time()
        for _ in range(BLOCK):
            step = self.program.updates
            measured = self.program.step(self.program.batch(self.program.position))
            loss = measured.metrics["loss"]
            assert isinstance(loss, float)
            self.after(loss)
            self.recorder.log(step, loss=loss, lr=measured.metrics["lr"])
        self.recorder.flush()
        return (time.process_time() - start) / BLOCK


def contenders(folder: Path) -> dict[str, Contender]:
    """Name → contender, each one with its watching attached."""
    from trainscope.core.config import load_config
    from trainscope.scope import TrainScope

    named = {name: Contender(folder / f"run-{n}") for n, name in enumerate((ALONE, WATCH, TOKENS, MINIMAL, THINNED))}
    watches = {
        name: named[name].recorder.watch(named[name].program._model, named[name].program._adam)
        for name in (WATCH, TOKENS)
    }
    named[TOKENS].program._model.register_forward_hook(partial(_see_logits, watches[TOKENS]))
    thinned = {"trace_every_n_steps": 10}
    for name, more in ((MINIMAL, {}), (THINNED, thinned)):
        settings: dict[str, Any] = {"profile": "minimal", "run_dir": str(folder), "run_name": f"scope-{len(more)}"}
        program = named[name].program
        named[name].after = TrainScope(program._model, program._adam, load_config(settings | more)).attach().step
    return named


def _see_logits(watch: Watch, model: nn.Module, inputs: tuple[Tensor, Tensor], _: object) -> None:
    """As a loop that holds its logits does. The lab's model returns none: random ones of their shape take as long."""
    ids, labels = inputs
    if model.training:
        watch.logits(_logits((*ids.shape, cast(MiniGPT, model).tokens.shape[0])), labels)


@cache
def _logits(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape)


def main() -> None:
    arguments = options(__doc__ or "", rounds=30).parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        running = contenders(Path(name))
        spent: dict[str, list[float]] = {contender: [] for contender in running}
        order = list(running)
        for number in rounds_of(arguments.rounds):
            random.Random(number).shuffle(order)
            for contender in order:
                cpu = running[contender].block()
                if number:
                    spent[contender].append(cpu)
        for contender in running.values():
            contender.recorder.close()
    lines = ["| loop | CPU per step, ms | added | 95 % interval |", "| --- | --- | --- | --- |"]
    for contender, times in spent.items():
        row = f"| {contender} | {statistics.median(times) * 1e3:.2f} "
        if contender == ALONE:
            lines.append(row + "| – | – |")
            continue
        added, low, high = interval([a / b - 1 for a, b in zip(times, spent[ALONE], strict=True)])
        median = f"**{added:.1%}**" if contender == WATCH else f"{added:.1%}"
        lines.append(row + f"| {median} | {low:.1%} to {high:.1%} |")
    table = "\n".join(lines)
    publish(
        "watch-overhead",
        f"""{table}

At most {GOAL:.0%} was asked for. Medians of {arguments.rounds} rounds of {BLOCK} steps each, differences paired within
a round, order shuffled; intervals by bootstrap over rounds. trainscope 1.8.1 measures all 16 parameters at every traced
step; the profile's filter of activations, `attn` and `mlp`, matches no module of the lab's model. Measured on
{machine()}.""",
        write=arguments.write,
    )


if __name__ == "__main__":
    main()
