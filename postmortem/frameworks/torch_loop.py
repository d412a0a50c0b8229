"""Makes a plain PyTorch training loop a program, see `postmortem.program`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from postmortem.checkpoint import TrainState
from postmortem.checkpoint.state import Stateful
from postmortem.frameworks._batch_contents import EditableBatches, UpdateBatch, batch_facts
from postmortem.frameworks._restoring import restored_state
from postmortem.program import Batch, Measured, Scalar, State
from postmortem.record.state_hash import state_hash


class TorchLoop(EditableBatches):
    """A training of one model with one optimizer, as in your own training loop.

        def build(config):
            model = …
            optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
            return TorchLoop(model, optimizer, batch=batch, loss=loss, clip=1.0)

    batch: index → what one update consumes, on the device of the model; a function of only the index (and of the rank:
        `torch.distributed.get_rank()`). A list is a list of micro-batches, whose mean loss is the loss of the update.
    loss: (model, micro-batch) → its mean loss, a scalar; or (loss, further columns of the step's row).
    scheduler: steps once per update. clip: L2 norm to which `clip_grad_norm_` clips. autocast: dtype of the forward
    pass. scaler: for float16. hash_every: steps between two state hashes, 0 for none. Further keywords are state that
    `TrainState` takes by name, such as `ema=…` or a generator.

    An update is `zero_grad`, forward, backward, clip, `optimizer.step`, `scheduler.step`, in this order. A loop that
    does the same has the same bits, and its checkpoints (of a `TrainState`) and recorded rows can be used here. Other
    loops override `losses`, or `labels` and `edited` for batches of another form.
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
        self._batch_of, self._loss = batch, loss
        self._scheduler, self._scaler = scheduler, scaler
        self._clip, self._autocast, self._hash_every = clip, autocast, hash_every
        self._progress = _Progress()
        state = {name: value for name, value in state.items() if value is not None}
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

    def batch(self, index: int) -> UpdateBatch:
        """What the update at an absolute index consumes."""
        content = self._batch_of(index)
        parts = cast(list[Any], content) if isinstance(content, list) else [content]
        return UpdateBatch(index, tuple(parts))

    def losses(self, part: Any) -> tuple[Tensor, Mapping[str, Any]]:
        """The mean loss of one micro-batch, and further columns."""
        loss = self._loss(self.model, part)
        return loss if isinstance(loss, tuple) else (loss, {})

    def step(self, batch: Batch) -> Measured:
        """One update."""
        batch = cast(UpdateBatch, batch)
        self.optimizer.zero_grad()
        metrics = self._backward(batch)
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        metrics["grad_norm"] = self._gradient_norm(self._clip)
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
        return Measured(metrics, batch_facts(batch.parts))

    def measure(self, batch: Batch) -> Measured:
        """Loss and gradient norm of a batch, without an update."""
        batch = cast(UpdateBatch, batch)
        scaler, self._scaler = self._scaler, None
        try:
            with restored_state(self.model):
                metrics = self._backward(batch)
                metrics["grad_norm"] = self._gradient_norm(None)
        finally:
            self._scaler = scaler
        return Measured(metrics, batch_facts(batch.parts))

    def state_dict(self) -> dict[str, Any]:
        """Sections model, optimizer, scheduler, scaler, rng, progress, and the further keywords."""
        return copy.deepcopy(self._state.state_dict())

    def load_state_dict(self, state: State) -> None:
        """Load the sections that `state` contains."""
        self._state.load_state_dict(state)

    @property
    def placed_sections(self) -> tuple[str]:
        """Other loops save no progress: their checkpoints may lack it."""
        return ("progress",)

    def place(self, updates: int, position: int) -> None:
        """Set the step and batch, if the loaded state did not contain them: your own loop's checkpoint has no step."""
        if not self._progress.restored:
            self._progress.updates, self._progress.position = updates, position

    def _backward(self, batch: UpdateBatch) -> dict[str, Scalar]:
        """Forward and backward of all micro-batches; the loss is the mean of their losses."""
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

    def _gradient_norm(self, clip: float | None) -> float:
        """L2 norm of the gradients, which are then clipped to `clip` if it is given."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if clip is not None:
            norm = nn.utils.clip_grad_norm_(parameters, clip)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
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
    """The step and batch of a training. `restored` is whether they were loaded from a state."""

    def __init__(self) -> None:
        self.updates = self.position = 0
        self.restored = False

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates, "position": self.position}

    def load_state_dict(self, state: Mapping[str, int], /) -> None:
        self.updates, self.position = state["updates"], state["position"]
        self.restored = True


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
