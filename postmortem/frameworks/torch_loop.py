"""A plain PyTorch training behind the contract of `postmortem.program`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from postmortem.checkpoint import TrainState
from postmortem.checkpoint.state import Stateful
from postmortem.frameworks._batch_contents import Gathered, counting, edited, facts
from postmortem.frameworks._untouched import untouched
from postmortem.program import Batch, Edit, Measured, Scalar, State
from postmortem.record.state_hash import state_hash


class TorchLoop:
    """A training of one model by one optimizer, as a loop of one's own would do it.

        def build(config):
            model = …
            optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
            return TorchLoop(model, optimizer, batch=batch, loss=loss, clip=1.0)

    batch: index → what one update consumes, on the device of the model; a function of the index alone (and of the rank:
        `torch.distributed.get_rank()`). A list is a list of micro-batches, over whose mean losses is accumulated.
    loss: (model, micro-batch) → its mean loss, a scalar; or (loss, further columns of the step's row).
    scheduler: steps once an update. clip: L2 norm to which `clip_grad_norm_` clips. autocast: dtype of the forward
    pass. scaler: for float16. hash_every: steps between two state hashes, 0 for none. Further keywords are state: what
    `TrainState` takes by name, such as `ema=…` or a generator.

    An update is `zero_grad`, forward, backward, clip, `optimizer.step`, `scheduler.step`, in this order: a loop that
    does the same has the same bits, and its checkpoints (of a `TrainState`) and its recorded rows fit. Odd loops
    override `losses`, or `labels` and `edited` for batches of another form.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        batch: Callable[[int], Any],
        loss: Callable[[nn.Module, Any], Tensor | tuple[Tensor, Mapping[str, Any]]],
        scheduler: Any = None,
        clip: float | None = None,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        hash_every: int = 100,
        **state: Any,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._content, self._loss = batch, loss
        self._scheduler, self._scaler = scheduler, scaler
        self._clip, self._autocast, self._hash_every = clip, autocast, hash_every
        self._progress = _Progress()
        state = {name: one for name, one in state.items() if one is not None}
        self._state = TrainState(
            model, optimizer, scheduler, cast("Stateful | None", scaler), progress=self._progress, **state
        )

    @property
    def updates(self) -> int:
        """Number of the next step."""
        return self._progress.updates

    @property
    def position(self) -> int:
        """Index of the batch after the last one consumed."""
        return self._progress.position

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer]:
        """The one optimizer."""
        return (self.optimizer,)

    def batch(self, index: int) -> Gathered:
        """What the update at an absolute index consumes."""
        content = self._content(index)
        parts = cast(list[Any], content) if isinstance(content, list) else [content]
        return Gathered(index, tuple(parts))

    def labels(self, batch: Batch) -> Sequence[Sequence[int]]:
        """The labels that count, row by row."""
        return counting(cast(Gathered, batch).parts)

    def edited(self, batch: Batch, edit: Edit) -> Gathered:
        """The batch with `edit` in it."""
        return edited(cast(Gathered, batch), edit)

    def losses(self, part: Any) -> tuple[Tensor, Mapping[str, Any]]:
        """The mean loss of one micro-batch, and further columns."""
        found = self._loss(self.model, part)
        return found if isinstance(found, tuple) else (found, {})

    def step(self, batch: Batch) -> Measured:
        """One update."""
        batch = cast(Gathered, batch)
        self.optimizer.zero_grad()
        metrics = self._backward(batch)
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        metrics["grad_norm"] = self._norm(self._clip)
        if self._clip is not None:
            metrics["clip_threshold"] = self._clip
        metrics["lr"] = float(self.optimizer.param_groups[0]["lr"])
        self._update(metrics)
        if self._scheduler is not None:
            self._scheduler.step()
        if self._hash_every and self.updates % self._hash_every == 0:
            metrics["param_hash"] = state_hash(dict(self.model.named_parameters())).hex
        self._progress.updates += 1
        self._progress.position = batch.index + 1
        return Measured(metrics, facts(batch.parts))

    def measure(self, batch: Batch) -> Measured:
        """Loss and gradient norm of a batch, without an update."""
        batch = cast(Gathered, batch)
        scaler, self._scaler = self._scaler, None
        try:
            with untouched(self.model):
                metrics = self._backward(batch)
                metrics["grad_norm"] = self._norm(None)
        finally:
            self._scaler = scaler
        return Measured(metrics, facts(batch.parts))

    def state_dict(self) -> dict[str, Any]:
        """Sections model, optimizer, scheduler, scaler, rng, progress, and those of the further keywords."""
        return copy.deepcopy(self._state.state_dict())

    def load_state_dict(self, state: State) -> None:
        """Take over the sections that `state` holds."""
        self._state.load_state_dict(state)

    @property
    def placed_sections(self) -> tuple[str]:
        """Only a state of this class tells its progress."""
        return ("progress",)

    def place(self, updates: int, position: int) -> None:
        """Where the state stands, if it did not say: that of a loop of one's own holds no step."""
        if not self._progress.told:
            self._progress.updates, self._progress.position = updates, position

    def _backward(self, batch: Gathered) -> dict[str, Scalar]:
        """Forward and backward of all micro-batches; the loss is the mean of theirs."""
        metrics: dict[str, Scalar] = {}
        losses: list[Tensor] = []
        count = len(batch.parts)
        for part in batch.parts:
            with self._forward_pass(part):
                loss, columns = self.losses(part)
            losses.append(loss.detach())
            metrics |= {name: _number(value) for name, value in columns.items()}
            share = loss if count == 1 else loss / count
            (share if self._scaler is None else self._scaler.scale(share)).backward()
        return {"loss": _number(losses[0] if count == 1 else torch.stack(losses).mean()), **metrics}

    def _forward_pass(self, part: Any) -> Any:
        if self._autocast is None:
            return nullcontext()
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, self._autocast)

    def _norm(self, clip: float | None) -> float:
        """L2 norm of the gradients, which are clipped to `clip` where it is given."""
        parameters = [one for group in self.optimizer.param_groups for one in group["params"] if one.grad is not None]
        if clip is not None:
            norm = nn.utils.clip_grad_norm_(parameters, clip)
        else:
            norm = nn.utils.get_total_norm([one.grad for one in parameters])
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _update(self, metrics: dict[str, Scalar]) -> None:
        if self._scaler is None:
            self.optimizer.step()
            return
        metrics["loss_scale"] = scale = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        metrics["skipped"] = int(self._scaler.get_scale() < scale)


class _Progress:
    """Where a training stands. `told` is whether a state said so."""

    def __init__(self) -> None:
        self.updates = self.position = 0
        self.told = False

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates, "position": self.position}

    def load_state_dict(self, state: Mapping[str, int], /) -> None:
        self.updates, self.position = state["updates"], state["position"]
        self.told = True


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
