"""The lab's program, changed: another optimizer, another start, another mixture of data; see `families.TRAININGS`.

The keys that the lab's config does not have: `optimizer.name` "sgd" (momentum) or "lion", `optimizer.ramp` (steps over
which the weight of the loss grows from a tenth to 1), `model.zero_start` (the head and the last matrix of each branch
are 0, as in many recipes: all tokens have the loss ln V), and `data.word_orders`. Without them it is the lab's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import torch

from postmortem.lab.data import LabBatch, Loader
from postmortem.lab.model import Forward
from postmortem.lab.program import LabProgram, build
from postmortem.program import Batch, Config, Measured

ENTRY_POINT = "benchmarks.changed.programs:build_changed"
_OF_ADAM = ("adam_m_norm", "adam_v_norm", "g2_over_v")
_ZERO_AT_START = ("head", "out", "down")


def build_changed(config: Config) -> ChangedProgram:
    """A fresh training of `config`. Raises UsageError as the lab's own `build` does."""
    build(config)  # checks the sizes, and pins torch to one deterministic thread
    return ChangedProgram(config)


class ChangedProgram(LabProgram):
    """The lab's program with the changes that its config names."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config["data"].get("word_orders", 1) > 1:
            self.loader = MixedLoader(config)
        if config["model"].get("zero_start"):
            for name, values in self._arena.views(self._arena.flat).items():
                if name.endswith(_ZERO_AT_START):
                    values.zero_()
        self._ramp = int(config["optimizer"].get("ramp", 0))
        rule = {"sgd": self._sgd, "lion": self._lion}.get(config["optimizer"]["name"])
        self._of_adam = rule is None
        if rule is not None:
            views = self._arena.views(self._m)
            momenta = [views[name] for name in self._arena.names]
            self._adam = _FlatOptimizer(self._arena.parameters, momenta, rule)

    def step(self, batch: Batch) -> Measured:
        """One step; what only Adam has is not measured where there is no Adam."""
        measured = super().step(batch)
        if self._of_adam:
            return measured
        return replace(measured, metrics={k: v for k, v in measured.metrics.items() if k not in _OF_ADAM})

    def _backward(self, batch: LabBatch, generator: torch.Generator) -> Forward:
        forward = super()._backward(batch, generator)
        if self._updates < self._ramp:
            self._arena.grad.mul_(0.1 + 0.9 * self._updates / self._ramp)
        return forward

    def _sgd(self, rate: float) -> None:
        """Heavy ball, as torch.optim.SGD(momentum=0.9) does it: the momentum is a sum, not a mean, of gradients."""
        self._m.mul_(0.9).add_(self._arena.grad)
        self._arena.flat.sub_(rate * self._m)

    def _lion(self, rate: float) -> None:
        """Lion (arXiv 2302.06675) without weight decay: each parameter moves by ± rate, so the update RMS is 1. A NaN
        stays one, as in Optax; torch.sign would make it 0, and freeze the parameter instead of destroying it."""
        update = 0.9 * self._m + 0.1 * self._arena.grad
        self._arena.flat.sub_(rate * torch.where(update.isnan(), update, update.sign()))
        self._m.mul_(0.99).add_(0.01 * self._arena.grad)


class _FlatOptimizer(torch.optim.Optimizer):
    """Applies `rule(rate)` to all parameters at once. Each parameter's state is its step and its momentum."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        momenta: list[torch.Tensor],
        rule: Callable[[float], None],
    ) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self._rule = rule
        for parameter, momentum in zip(parameters, momenta, strict=True):
            self.state[parameter] = {"step": torch.zeros(()), "momentum_buffer": momentum}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all parameters."""
        self._rule(float(self.param_groups[0]["lr"]))


class MixedLoader(Loader):
    """A corpus in several word orders, the k-th with a share ∝ 1/k²: few sentences are much harder than the others.

    A word order is one fixed permutation per length of a sentence, so all orders have the same words. A model learns
    the common ones first. With a small batch, its loss has a heavy right tail for the whole run.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        count, rng = int(config["data"]["word_orders"]), Random(f"word orders:{config['seed']}")
        shares = [1 / k**2 for k in range(1, count + 1)]
        self._shards = [
            [
                replace(sample, ids=_reordered(sample.ids, order))
                for sample, order in zip(shard, rng.choices(range(count), shares, k=len(shard)), strict=True)
            ]
            for shard in self._shards
        ]


def _reordered(ids: tuple[int, ...], order: int) -> tuple[int, ...]:
    """`ids` with what is between its begin and end marks in the word order of this number; 0 leaves it as it is."""
    if order == 0:
        return ids
    inner = range(1, len(ids) - 1)
    places = Random(f"word order:{order}:{len(inner)}").sample(inner, len(inner))
    return (ids[0], *(ids[place] for place in places), ids[-1])
