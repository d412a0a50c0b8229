"""A Lightning `Trainer` behind the contract of `postmortem.program`: its own loop takes every step.

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
from postmortem.frameworks._feed import Feed
from postmortem.frameworks._loader import LoaderBatches, draw_seed
from postmortem.frameworks._own_loop import OwnLoop, Taken
from postmortem.frameworks.lightning.record import LightningCallback, generators_in, set_generators
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


class LightningLoop(OwnLoop):
    """Takes over `trainer`, which has not fitted yet, and what it would be given: `fit` is called with the same.

    The training data come from `train_dataloaders`, one DataLoader, or from the data module or the module. The Trainer
    neither saves by itself nor logs anywhere, and records no run: checkpoint callbacks, loggers, progress bars and
    `LightningCallback` are taken out. Other callbacks and validations stay. Batch i is what update i of a training
    without skips consumes, `accumulate_grad_batches` of the loader's together. One process only.
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
        _leave_alone(trainer)
        source = _Source(trainer)
        taken, feed = Taken(), Feed(source.before_batch)
        self._trainer, self._module, self._source = trainer, module, source
        self._taking = _Taking(taken)
        cast(Any, trainer).callbacks.append(self._taking)
        given: Any = None
        if train_dataloaders is not None:
            given = source.fed_by(feed, train_dataloaders)
        else:
            owner: Any = module if datamodule is None else datamodule
            original = owner.train_dataloader
            vars(owner)["train_dataloader"] = lambda: source.fed_by(feed, original())
        self._fit: dict[str, Any] = {
            "train_dataloaders": given, "val_dataloaders": val_dataloaders, "datamodule": datamodule,
        }  # fmt: skip
        self._wanted: int | None = None  # step of a state that is loaded, where it is another than the loop's
        super().__init__(feed, taken)

    @property
    def updates(self) -> int:
        """Updates that the Trainer has done."""
        return int(self._trainer.global_step)

    @property
    def optimizers(self) -> tuple[_Hooked]:
        """The optimizer, whose hooks are called once the gradients are there: Lightning makes them within `step`."""
        self._begin()
        return (_Hooked(self._trainer.optimizers[0], self._taking.hooks),)

    def restore(self, checkpoint: Path) -> tuple[str, ...]:
        """Begin the loop from a `.ckpt` of Lightning's own, see `postmortem.program.OwnCheckpoints`."""
        restored = super().restore(checkpoint)
        if self._taking.drawn is None:
            return restored
        set_generators(self._taking.drawn)  # now that the loop has drawn what it draws at a restart
        return (*restored, "rng")

    def save(self, folder: Path) -> Path:
        """A checkpoint of Lightning's own, `folder/step-<step>.ckpt`."""
        self._begin()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self.updates:08d}.ckpt"
        made = folder / f".{path.name}.tmp-{os.getpid()}"
        self._trainer.save_checkpoint(made)
        made.replace(path)
        return path

    @property
    def _data(self) -> LoaderBatches:
        return self._source.data

    @property
    def _model(self) -> nn.Module:
        return self._module

    def _training(self, checkpoint: Path | None) -> Callable[[], Any]:
        fit: Callable[..., None] = self._trainer.fit
        module, given = self._module, self._fit
        if checkpoint is not None:
            given = {**given, "ckpt_path": str(checkpoint)}
            if "weights_only" in inspect.signature(fit).parameters:  # from 2.6 on; the file was looked into before
                given["weights_only"] = True
        return lambda: fit(module, **given)

    def _sections(self) -> TrainState:
        trainer = self._trainer
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        if len(trainer.optimizers) != 1 or len(schedules) > 1:
            raise UsageError("a Lightning module of several optimizers or schedulers cannot be replayed")
        return TrainState(self._module, trainer.optimizers[0], cast(Any, schedules[0] if schedules else None))

    def _go_to(self, updates: int) -> None:
        self._wanted = None if updates == self.updates else updates

    def step(self, batch: Batch) -> Measured:
        """One update of the loop, see `OwnLoop.step`. Raises UsageError also where the state is that of another step:
        it can be measured, but the loop's count of steps, batches and epochs is its own."""
        if self._wanted is not None:
            raise UsageError(
                f"a Lightning Trainer at step {self.updates} cannot go to step {self._wanted}: only a checkpoint of "
                "its own takes it there"
            )
        return super().step(batch)

    def _backward(self, parts: Sequence[Any]) -> float:
        trainer, module = self._trainer, self._module
        takes = len(inspect.signature(module.training_step).parameters)
        total = 0.0
        silent = ("log", "log_dict")  # Lightning allows logging in its own hooks only
        vars(module).update(dict.fromkeys(silent, _nothing))
        try:
            for number, part in enumerate(parts):
                batch = trainer.strategy.batch_to_device(part)
                with trainer.precision_plugin.train_step_context():
                    output: Any = module.training_step(*(batch, number)[:takes])
                loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
                (loss / len(parts)).backward()
                total += float(loss.detach())
        finally:
            for name in silent:
                del vars(module)[name]
        return total / len(parts)


class _Source:
    """Where the Trainer's batches would have come from."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loader: DataLoader[Any] | None = None
        self._data: LoaderBatches | None = None

    @property
    def data(self) -> LoaderBatches:
        """The batches that the Trainer asks of its loader, once it did."""
        if self._data is None:
            if self._loader is None:
                raise UsageError("the Lightning Trainer asked for no training data: its training ends before a step")
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

    def fed_by(self, feed: Feed, loader: Any) -> DataLoader[Any]:
        """What the Trainer gets in the place of `loader`. Raises UsageError where that is no DataLoader."""
        if not isinstance(loader, DataLoader):
            raise UsageError(f"the training data are a {type(loader).__name__}; a replay needs one DataLoader")
        self._loader = cast("DataLoader[Any]", loader)
        per_epoch = LoaderBatches(self._loader).per_epoch
        return feed.loader(_ENDLESS if per_epoch is None else per_epoch)


class _Hooked:
    """Takes hooks as an optimizer does."""

    def __init__(self, optimizer: Optimizer, hooks: list[_UpdateHook]) -> None:
        self.register_step_post_hook = optimizer.register_step_post_hook
        self._hooks = hooks

    def register_step_pre_hook(self, hook: _UpdateHook) -> _Handle:
        """Have `hook(optimizer, (), {})` called before each update, with the gradients in place."""
        self._hooks.append(hook)
        return _Handle(self._hooks, hook)


class _Handle:
    def __init__(self, hooks: list[_UpdateHook], hook: _UpdateHook) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


class _Taking(LightningCallback):
    """Hands its rows to the driver and calls the hooks of a replay. `drawn` is where the generators were when the
    checkpoint was saved, None where it does not say."""

    def __init__(self, taken: Taken) -> None:
        super().__init__(cast(Recorder, taken))
        self.hooks: list[_UpdateHook] = []
        self.drawn: Mapping[str, Any] | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self.drawn = generators_in(checkpoint)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        for hook in self.hooks:
            hook(optimizer, (), {})


class _StandIn(Callback):
    """Has the name of a callback that was taken out, so that its state in a checkpoint is not missed."""

    def __init__(self, key: str) -> None:
        self._key = key

    @property
    def state_key(self) -> str:
        return self._key


def _leave_alone(trainer: Trainer) -> None:
    """Nothing is written or logged but what the driver writes."""
    kept: list[Any] = []
    for one in cast("list[Callback]", cast(Any, trainer).callbacks):
        if isinstance(one, Checkpoint):
            kept.append(_StandIn(one.state_key))
        elif not isinstance(one, (LightningCallback, ProgressBar, ModelSummary)):
            kept.append(one)
    cast(Any, trainer).callbacks = kept
    if trainer.loggers:
        trainer.loggers = [DummyLogger()]


def _nothing(*_: Any, **__: Any) -> None:
    pass
