"""What the loops of Hugging Face and Lightning have in common when they are driven step by step."""

from __future__ import annotations

import copy
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from postmortem.checkpoint import TrainState
from postmortem.errors import UsageError
from postmortem.frameworks._batch_contents import Gathered, counting, edited, facts, fresh
from postmortem.frameworks._feed import Feed
from postmortem.frameworks._foreign_checkpoint import check_foreign
from postmortem.frameworks._loader import LoaderBatches
from postmortem.frameworks._untouched import untouched
from postmortem.program import Batch, Edit, Measured, Scalar, State
from postmortem.record.cells import cell
from postmortem.record.hashing import batch_hash
from postmortem.record.state_hash import state_hash

_HASH_EVERY = 100  # steps, as `Recorder.watch` does


class Taken:
    """Stands where the recording callback has its recorder, and keeps what the callback says of the step."""

    def __init__(self) -> None:
        self.path = Path()
        self.restored: tuple[str, ...] = ()
        self._rows: dict[int, dict[str, Scalar]] = {}
        self._batches: dict[int, dict[str, Any]] = {}

    def log(self, step: int, metrics: Mapping[str, Any] | None = None, /, **columns: Any) -> None:
        """One row of metrics; those of one step become one."""
        row = {name: value for name, value in {**(metrics or {}), **columns}.items() if value is not None}
        self._rows.setdefault(step, {}).update({name: cast(Scalar, cell(name, value)) for name, value in row.items()})

    def batch(self, step: int, batch: Any = None, *, index: int | None = None, **told: Any) -> None:
        """One row about the batch, whose hash is that of `Recorder.batch`."""
        ids = batch if isinstance(batch, np.ndarray) else batch.cpu().numpy()
        self._batches[step] = {"batch_hash": batch_hash(cast("np.ndarray[Any, Any]", ids)), **told}

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        """Events are the driver's to tell."""

    def resumed(self, step: int, checkpoint: Any = None, *, restored: Sequence[str] = (), **keys: Any) -> None:
        """The loop went on from its own checkpoint."""
        self.restored = tuple(restored)

    def measured(self, step: int) -> Measured:
        """What was said of `step`."""
        found = Measured(self._rows.get(step, {}), self._batches.get(step, {}))
        self._rows.clear()
        self._batches.clear()
        return found


class OwnLoop(ABC):
    """A program whose steps are taken by a loop that somebody else wrote, see `_feed`."""

    framework: ClassVar[str]

    def __init__(self, feed: Feed, taken: Taken) -> None:
        self._feed, self._taken = feed, taken
        self._position = 0
        self._begun = False
        weakref.finalize(self, feed.close)  # nothing that the loop's thread holds leads back to self

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
        """See `postmortem.program.OwnCheckpoints`."""

    @abstractmethod
    def _training(self, checkpoint: Path | None) -> Callable[[], Any]:
        """The whole training as one call, which holds no reference to self."""

    @property
    @abstractmethod
    def _data(self) -> LoaderBatches:
        """The data of the training."""

    @abstractmethod
    def _sections(self) -> TrainState:
        """The live state, once the loop has begun."""

    @abstractmethod
    def _go_to(self, updates: int) -> None:
        """Have the loop count on from this step, which may be another than its own."""

    @abstractmethod
    def _backward(self, parts: Sequence[Any]) -> float:
        """Forward and backward of one update's micro-batches, without scaling; its loss."""

    @property
    @abstractmethod
    def _model(self) -> nn.Module:
        """The model, as it is trained."""

    @property
    def position(self) -> int:
        """Index of the batch after the last one consumed."""
        return self._position

    def batch(self, index: int) -> Gathered:
        """The batch at an absolute index: what update `index` of a training without skips consumes."""
        self._begin()
        return Gathered(index, self._data.parts(index))

    def labels(self, batch: Batch) -> Sequence[Sequence[int]]:
        """The labels that count, row by row."""
        return counting(cast(Gathered, batch).parts)

    def edited(self, batch: Batch, edit: Edit) -> Gathered:
        """The batch with `edit` in it."""
        return edited(cast(Gathered, batch), edit)

    def step(self, batch: Batch) -> Measured:
        """One update of the loop.

        Raises:
            UsageError: the loop ends, or makes no update or several of one batch.
        """
        self._begin()
        batch, step = cast(Gathered, batch), self.updates
        if self._feed.ended:
            raise UsageError(
                f"the {self.framework} Trainer ends its training after {step} steps (its max_steps, its epochs, or a "
                f"callback): there is no step {step} to drive"
            )
        self._feed.give(fresh(batch.parts))
        if self.updates != step + 1 or self._feed.left:
            raise UsageError(
                f"step {step}: the {self.framework} Trainer made {self.updates - step} updates of the "
                f"{len(batch.parts)} micro-batches of batch {batch.index} and left {self._feed.left} of them. A replay "
                "needs one update to a batch: one optimizer, and epochs of a multiple of the accumulated batches where "
                "batches are skipped or moved"
            )
        self._position = batch.index + 1
        if step % _HASH_EVERY == 0:
            self._taken.log(step, param_hash=state_hash(dict(self._model.named_parameters())).hex)
        return self._taken.measured(step)

    def measure(self, batch: Batch) -> Measured:
        """Loss and gradient norm of a batch, without an update."""
        self._begin()
        parts = fresh(cast(Gathered, batch).parts)
        with untouched(self._model):
            loss = self._backward(parts)
            norm: Any = get_total_norm([one.grad for one in self._model.parameters() if one.grad is not None])
        metrics = {"loss": loss, "grad_norm": float(norm.full_tensor() if isinstance(norm, DTensor) else norm)}
        return Measured(metrics, facts(parts))

    def state_dict(self) -> dict[str, Any]:
        """Sections model, optimizer, scheduler, scaler, rng, progress."""
        self._begin()
        progress = {"updates": self.updates, "position": self._position}
        return copy.deepcopy({**self._state.state_dict(), "progress": progress})

    def load_state_dict(self, state: State) -> None:
        """Take over the sections that `state` holds."""
        self._begin()
        self._state.load_state_dict(state)
        progress: Mapping[str, int] | None = state.get("progress")
        if progress is not None:
            self._go_to(progress["updates"])
            self._position = progress["position"]

    def restore(self, checkpoint: Path) -> tuple[str, ...]:
        """Begin the loop from a checkpoint of its own; names of the pieces of state that came back.

        Raises:
            UnreadableInput: what it holds is not safe to load.
            UsageError: the loop runs already.
        """
        if self._begun:
            raise UsageError(f"the {self.framework} Trainer runs already: a checkpoint of its own begins a training")
        check_foreign(checkpoint)
        self._begin(checkpoint)
        self._position = self.updates
        return self._taken.restored

    @property
    def placed_sections(self) -> tuple[str]:
        """The loop counts updates; the batches before them are told by nobody else."""
        return ("progress",)

    def place(self, updates: int, position: int) -> None:
        """The batches that were skipped before the checkpoint: the loop counts updates only."""
        if updates == self.updates:
            self._position = position

    @cached_property
    def _state(self) -> TrainState:
        return self._sections()

    def _begin(self, checkpoint: Path | None = None) -> None:
        """Run the loop until it wants its first batch."""
        if not self._begun:
            self._begun = True
            self._feed.start(self._training(checkpoint))
