"""Makes a Lightning `Trainer` a program, see `postmortem.program`: its own loop takes every step.

def build(config):
    return LightningLoop(make_trainer(config), Module(config), make_loader(config))
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.utils.data import DataLoader

from postmortem.checkpoint import TrainState
from postmortem.errors import MissingExtra, UsageError
from postmortem.frameworks._feed import BatchFeed
from postmortem.frameworks._framework_loop import FrameworkLoop, RowCollector
from postmortem.frameworks._loader import LoaderBatches, draw_seed
from postmortem.frameworks.lightning.record import LightningCallback, restore_generators, saved_generators
from postmortem.program import Batch, Measured
from postmortem.record import Recorder

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
    from lightning.pytorch.loggers.logger import DummyLogger
    from torch.optim import Optimizer
else:
    try:
        try:
            from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
            from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
            from lightning.pytorch.loggers.logger import DummyLogger
        except ImportError:
            from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
            from pytorch_lightning.callbacks import Checkpoint, ModelSummary, ProgressBar
            from pytorch_lightning.loggers.logger import DummyLogger
    except ImportError as error:
        raise MissingExtra("Replaying a Lightning Trainer", "lightning") from error

_ENDLESS = 2**40  # batches of a stream
_UpdateHook = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class LightningLoop(FrameworkLoop):
    """Drives `trainer`, which must not have fitted yet, with the arguments that `fit` would get.

    The training data come from `train_dataloaders`, one DataLoader, or from the data module or the module. The Trainer
    does not save by itself, log anywhere or record a run: checkpoint callbacks, loggers, progress bars and
    `LightningCallback` are removed. Other callbacks and validations stay. Batch i is what update i of a training
    without skips consumes: `accumulate_grad_batches` batches of the loader. Only one process is supported.
    """

    framework = "Lightning"

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        train_dataloaders: DataLoader[Any] | None = None,
        val_dataloaders: Any = None,
        *,
        datamodule: LightningDataModule | None = None,
    ) -> None:
        if trainer.world_size > 1:
            raise UsageError("a Lightning Trainer of several processes cannot be replayed: give it devices=1")
        _disable_saving_and_logging(trainer)
        replaced_loader = _ReplacedLoader(trainer)
        collector, feed = RowCollector(), BatchFeed(replaced_loader.before_batch)
        self._trainer, self._module, self._replaced_loader = trainer, module, replaced_loader
        self._callback = _ReplayCallback(collector)
        cast(Any, trainer).callbacks.append(self._callback)
        train_loader: Any = None
        if train_dataloaders is not None:
            train_loader = replaced_loader.replace(feed, train_dataloaders)
        else:
            owner: Any = module if datamodule is None else datamodule
            original = owner.train_dataloader
            vars(owner)["train_dataloader"] = lambda: replaced_loader.replace(feed, original())
        self._fit: dict[str, Any] = {
            "train_dataloaders": train_loader, "val_dataloaders": val_dataloaders, "datamodule": datamodule,
        }  # fmt: skip
        self._unreachable_step: int | None = None  # the step of a loaded state, if the loop cannot go there
        super().__init__(feed, collector)

    @property
    def updates(self) -> int:
        """Number of updates that the Trainer has done."""
        return int(self._trainer.global_step)

    @property
    def optimizers(self) -> tuple[_HookableOptimizer]:
        """The optimizer; its pre-step hooks are called after the gradients are computed: Lightning does this inside
        `step`."""
        self._start()
        return (_HookableOptimizer(self._trainer.optimizers[0], self._callback.hooks),)

    def _restored(self, checkpoint: Path) -> tuple[str, ...]:
        restored = super()._restored(checkpoint)
        if self._callback.generators is None:
            return restored
        restore_generators(self._callback.generators)  # after the loop has drawn what it draws at a restart
        return (*restored, "rng")

    def save(self, folder: Path) -> Path:
        """Write a Lightning checkpoint, `folder/step-<step>.ckpt`."""
        self._start()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self.updates:08d}.ckpt"
        staging = folder / f".{path.name}.tmp-{os.getpid()}"
        self._trainer.save_checkpoint(staging)
        staging.replace(path)
        return path

    @property
    def _data(self) -> LoaderBatches:
        return self._replaced_loader.data

    @property
    def _model(self) -> nn.Module:
        return self._module

    def _training(self, checkpoint: Path | None) -> Callable[[], Any]:
        fit: Callable[..., None] = self._trainer.fit
        module, arguments = self._module, self._fit
        if checkpoint is not None:
            arguments = {**arguments, "ckpt_path": str(checkpoint)}
            if "weights_only" in inspect.signature(fit).parameters:  # since 2.6; the file was checked before
                arguments["weights_only"] = True
        return lambda: fit(module, **arguments)

    def _sections(self) -> TrainState:
        trainer = self._trainer
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        if len(trainer.optimizers) != 1 or len(schedules) > 1:
            raise UsageError("a Lightning module of several optimizers or schedulers cannot be replayed")
        return TrainState(self._module, trainer.optimizers[0], cast(Any, schedules[0] if schedules else None))

    def _set_updates(self, updates: int) -> None:
        self._unreachable_step = None if updates == self.updates else updates

    def step(self, batch: Batch) -> Measured:
        """One update of the loop, see `FrameworkLoop.step`. Also raises UsageError if the loaded state is of another
        step: such a state can be measured, but the loop keeps its own count of steps, batches and epochs."""
        if self._unreachable_step is not None:
            raise UsageError(
                f"a Lightning Trainer at step {self.updates} cannot go to step {self._unreachable_step}: only its own "
                "checkpoint can take it there"
            )
        return super().step(batch)

    def _backward(self, parts: Sequence[Any]) -> float:
        trainer, module = self._trainer, self._module
        argument_count = len(inspect.signature(module.training_step).parameters)
        total = 0.0
        muted = ("log", "log_dict")  # Lightning allows logging only in its own hooks
        vars(module).update(dict.fromkeys(muted, _do_nothing))
        try:
            for number, part in enumerate(parts):
                batch = trainer.strategy.batch_to_device(part)
                with trainer.precision_plugin.train_step_context():
                    output: Any = module.training_step(*(batch, number)[:argument_count])
                loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
                (loss / len(parts)).backward()
                total += float(loss.detach())
        finally:
            for name in muted:
                del vars(module)[name]
        return total / len(parts)


class _ReplacedLoader:
    """The Trainer's own loader, in whose place a `BatchFeed` gives the Trainer its batches."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loader: DataLoader[Any] | None = None
        self._data: LoaderBatches | None = None

    @property
    def data(self) -> LoaderBatches:
        """The batches of the Trainer's loader, after the Trainer has asked for it."""
        if self._data is None:
            if self._loader is None:
                raise UsageError(
                    "the Lightning Trainer asked for no training data: its training ends before the first step"
                )
            trainer = self._trainer
            limit = trainer.num_training_batches  # the shorter of its loader and limit_train_batches
            per_epoch = int(limit) if math.isfinite(limit) and limit < _ENDLESS else None
            self._data = LoaderBatches(self._loader, trainer.accumulate_grad_batches, per_epoch, exhausts=False)
        return self._data

    def before_batch(self) -> None:
        """Draw what the loader would have drawn at the beginning of an epoch."""
        data = self.data
        if data.draws and self._trainer.global_step % (data.updates_per_epoch or _ENDLESS) == 0:
            draw_seed()

    def replace(self, feed: BatchFeed, loader: Any) -> DataLoader[Any]:
        """The loader that the Trainer gets instead of `loader`. Raises UsageError if that is no DataLoader."""
        if not isinstance(loader, DataLoader):
            raise UsageError(f"the training data are a {type(loader).__name__}, but a replay needs one DataLoader")
        self._loader = cast("DataLoader[Any]", loader)
        per_epoch = LoaderBatches(self._loader).per_epoch
        return feed.loader(_ENDLESS if per_epoch is None else per_epoch)


class _HookableOptimizer:
    """Registers hooks like an optimizer."""

    def __init__(self, optimizer: Optimizer, hooks: list[_UpdateHook]) -> None:
        self.register_step_post_hook = optimizer.register_step_post_hook
        self._hooks = hooks

    def register_step_pre_hook(self, hook: _UpdateHook) -> _HookHandle:
        """Call `hook(optimizer, (), {})` before each update, after the gradients are computed."""
        self._hooks.append(hook)
        return _HookHandle(self._hooks, hook)


class _HookHandle:
    def __init__(self, hooks: list[_UpdateHook], hook: _UpdateHook) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


class _ReplayCallback(LightningCallback):
    """Passes its rows to the driver and calls the hooks of a replay. `generators` are the states of the generators in
    the checkpoint, None if it has none."""

    def __init__(self, collector: RowCollector) -> None:
        super().__init__(cast(Recorder, collector))
        self.hooks: list[_UpdateHook] = []
        self.generators: Mapping[str, Any] | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self.generators = saved_generators(checkpoint)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        for hook in self.hooks:
            hook(optimizer, (), {})


class _RemovedCallback(Callback):
    """Has the key of a removed callback, so that Lightning does not miss that callback's state in a checkpoint."""

    def __init__(self, key: str) -> None:
        self._key = key

    @property
    def state_key(self) -> str:
        return self._key


def _disable_saving_and_logging(trainer: Trainer) -> None:
    """Only the driver writes files and logs."""
    callbacks: list[Any] = []
    for callback in cast("list[Callback]", cast(Any, trainer).callbacks):
        if isinstance(callback, Checkpoint):
            callbacks.append(_RemovedCallback(callback.state_key))
        elif not isinstance(callback, (LightningCallback, ProgressBar, ModelSummary)):
            callbacks.append(callback)
    cast(Any, trainer).callbacks = callbacks
    if trainer.loggers:
        trainer.loggers = [DummyLogger()]


def _do_nothing(*_: Any, **__: Any) -> None:
    pass
