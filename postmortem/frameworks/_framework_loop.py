"""What `HuggingFaceLoop` and `LightningLoop` share: driving a framework's own loop step by step."""

from __future__ import annotations

import copy
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from postmortem.checkpoint import TrainState
from postmortem.errors import UsageError
from postmortem.frameworks._batch_contents import EditableBatches, UpdateBatch, batch_facts, shallow_copies
from postmortem.frameworks._feed import BatchFeed
from postmortem.frameworks._foreign_checkpoint import check_foreign_checkpoint, restoring
from postmortem.frameworks._loader import LoaderBatches
from postmortem.frameworks._recording import as_array
from postmortem.frameworks._restoring import restored_state
from postmortem.program import Batch, Measured, Scalar, State
from postmortem.record.cells import cell
from postmortem.record.hashing import batch_hash
from postmortem.record.state_hash import state_hash

_HASH_EVERY = 100  # steps, as `Recorder.watch` does


class RowCollector:
    """Takes the place of the recording callback's recorder, and collects the row of the step."""

    def __init__(self) -> None:
        self.path = Path()
        self.restored: tuple[str, ...] = ()
        self._rows: dict[int, dict[str, Scalar]] = {}
        self._batches: dict[int, dict[str, Any]] = {}

    def log(self, step: int, metrics: Mapping[str, Any] | None = None, /, **columns: Any) -> None:
        """Collect columns of a step's row of metrics."""
        row = {name: value for name, value in {**(metrics or {}), **columns}.items() if value is not None}
        self._rows.setdefault(step, {}).update({name: cast(Scalar, cell(name, value)) for name, value in row.items()})

    def batch(self, step: int, batch: Any = None, *, index: int | None = None, **facts: Any) -> None:
        """Collect the row about a step's batch; its hash is that of `Recorder.batch`."""
        self._batches[step] = {"batch_hash": batch_hash(as_array(batch)), **facts}

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        """Ignore events: the driver journals them."""

    def resumed(self, step: int, checkpoint: Any = None, *, restored: Sequence[str] = (), **keys: Any) -> None:
        """Remember what the loop restored from its own checkpoint."""
        self.restored = tuple(restored)

    def measured(self, step: int) -> Measured:
        """What was collected for `step`; then forget it."""
        measured = Measured(self._rows.get(step, {}), self._batches.get(step, {}))
        self._rows.clear()
        self._batches.clear()
        return measured


class FrameworkLoop(EditableBatches, ABC):
    """A program whose steps are taken by a framework's own loop, see `_feed`."""

    framework: ClassVar[str]

    def __init__(self, feed: BatchFeed, collector: RowCollector) -> None:
        self._feed, self._collector = feed, collector
        self._position = 0
        self._started = False
        weakref.finalize(self, feed.close)  # the loop's thread has no reference to self

    @property
    @abstractmethod
    def updates(self) -> int:
        """Number of the next step, by the loop's own count."""

    @property
    @abstractmethod
    def optimizers(self) -> Sequence[Any]:
        """See `postmortem.program.Adjustable`."""

    @abstractmethod
    def save(self, folder: Path) -> Path:
        """See `postmortem.program.FrameworkCheckpoints`."""

    @abstractmethod
    def _training(self, checkpoint: Path | None) -> Callable[[], Any]:
        """The whole training as one call, without a reference to self."""

    @property
    @abstractmethod
    def _data(self) -> LoaderBatches:
        """The data of the training."""

    @abstractmethod
    def _sections(self) -> TrainState:
        """The live state, after the loop has started."""

    @abstractmethod
    def _set_updates(self, updates: int) -> None:
        """Let the loop continue at this step, even if it is at another one."""

    @abstractmethod
    def _backward(self, parts: Sequence[Any]) -> float:
        """Forward and backward of one update's micro-batches, without scaling; its loss."""

    @property
    @abstractmethod
    def _model(self) -> nn.Module:
        """The model that is trained."""

    @property
    def position(self) -> int:
        """Index of the batch after the last one consumed."""
        return self._position

    def batch(self, index: int) -> UpdateBatch:
        """The batch at an absolute index: what update `index` of a training without skips consumes."""
        self._start()
        return UpdateBatch(index, self._data.parts(index))

    def step(self, batch: Batch) -> Measured:
        """One update of the loop.

        Raises:
            UsageError: the loop ends, or makes no update or several of one batch.
        """
        self._start()
        batch, step = cast(UpdateBatch, batch), self.updates
        if self._feed.ended:
            raise UsageError(
                f"the {self.framework} Trainer ends its training after {step} steps (because of max_steps, epochs or a "
                f"callback): there is no step {step} to drive"
            )
        self._feed.give(shallow_copies(batch.parts))
        if self.updates != step + 1 or self._feed.unused_parts:
            raise UsageError(
                f"step {step}: the {self.framework} Trainer made {self.updates - step} updates from batch "
                f"{batch.index} and did not use {self._feed.unused_parts} of its {len(batch.parts)} micro-batches. "
                "A replay needs one update per batch: use one optimizer, and if batches are skipped or moved, epochs "
                "whose length is a multiple of the accumulated batches"
            )
        self._position = batch.index + 1
        if step % _HASH_EVERY == 0:
            self._collector.log(step, param_hash=state_hash(dict(self._model.named_parameters())).hex)
        return self._collector.measured(step)

    def measure(self, batch: Batch) -> Measured:
        """Loss and gradient norm of a batch, without an update."""
        self._start()
        parts = shallow_copies(cast(UpdateBatch, batch).parts)
        with restored_state(self._model):
            loss = self._backward(parts)
            norm: Any = get_total_norm([p.grad for p in self._model.parameters() if p.grad is not None])
        metrics = {"loss": loss, "grad_norm": float(norm.full_tensor() if isinstance(norm, DTensor) else norm)}
        return Measured(metrics, batch_facts(parts))

    def state_dict(self) -> dict[str, Any]:
        """Sections model, optimizer, scheduler, scaler, rng, progress."""
        self._start()
        progress = {"updates": self.updates, "position": self._position}
        return copy.deepcopy({**self._state.state_dict(), "progress": progress})

    def load_state_dict(self, state: State) -> None:
        """Load the sections that `state` contains."""
        self._start()
        self._state.load_state_dict(state)
        progress: Mapping[str, int] | None = state.get("progress")
        if progress is not None:
            self._set_updates(progress["updates"])
            self._position = progress["position"]

    def restore(self, checkpoint: Path) -> tuple[str, ...]:
        """Start the loop from a checkpoint of its framework; the names of the restored pieces of state.

        Raises:
            UnreadableInput: the checkpoint is damaged, not safe to load, or none of this training.
            UsageError: the loop has already started.
        """
        if self._started:
            raise UsageError(
                f"the {self.framework} Trainer has already started: its own checkpoint can only start a training"
            )
        check_foreign_checkpoint(checkpoint)
        with restoring(checkpoint, self.framework):
            return self._restored(checkpoint)

    def _restored(self, checkpoint: Path) -> tuple[str, ...]:
        """Start the loop from a checkpoint that was checked; the names of the restored pieces of state."""
        self._start(checkpoint)
        self._position = self.updates
        return self._collector.restored

    @property
    def placed_sections(self) -> tuple[str]:
        """The loop counts updates, but not the batches before them."""
        return ("progress",)

    def place(self, updates: int, position: int) -> None:
        """Set the position in the data, which includes batches skipped before the checkpoint: the loop counts only
        updates."""
        if updates == self.updates:
            self._position = position

    @cached_property
    def _state(self) -> TrainState:
        return self._sections()

    def _start(self, checkpoint: Path | None = None) -> None:
        """Run the loop until it asks for its first batch."""
        if not self._started:
            self._started = True
            self._feed.start(self._training(checkpoint))
