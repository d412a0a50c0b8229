"""Makes a Hugging Face `Trainer` a program, see `postmortem.program`: its own loop takes every step.

def build(config):
    return HuggingFaceLoop(make_trainer(config))
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from postmortem.checkpoint import TrainState
from postmortem.errors import MissingExtra
from postmortem.frameworks._feed import BatchFeed
from postmortem.frameworks._framework_loop import FrameworkLoop, RowCollector
from postmortem.frameworks._loader import LoaderBatches, draw_seed
from postmortem.frameworks.huggingface.record import HuggingFaceCallback
from postmortem.record import Recorder

try:
    from torch import nn
    from transformers.trainer import Trainer
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
except ImportError as error:
    raise MissingExtra("Replaying a Hugging Face Trainer", "huggingface") from error

_ENDLESS = 2**40  # batches of a stream


class HuggingFaceLoop(FrameworkLoop):
    """Drives `trainer`, which must not have trained yet.

    The Trainer does not save by itself, report anywhere or record a run: progress bars, reporting callbacks and
    `HuggingFaceCallback` are removed. Other callbacks and evaluations stay. Batch i is what update i of a training
    without skips consumes: `gradient_accumulation_steps` micro-batches.
    """

    framework = "Hugging Face"

    def __init__(self, trainer: Trainer) -> None:
        _disable_saving_and_reporting(trainer)
        self._trainer: Any = trainer
        data = LoaderBatches(trainer.get_train_dataloader(), trainer.args.gradient_accumulation_steps)

        def before_batch() -> None:
            if data.draws and trainer.state.global_step % (data.updates_per_epoch or _ENDLESS) == 0:
                draw_seed()

        self._loader_batches = data
        collector, feed = RowCollector(), BatchFeed(before_batch)
        loader = feed.loader(data.per_epoch or _ENDLESS)
        vars(trainer)["get_train_dataloader"] = lambda: loader
        trainer.add_callback(HuggingFaceCallback(cast(Recorder, collector)))  # its rows go to the driver
        super().__init__(feed, collector)

    @property
    def updates(self) -> int:
        """Number of updates that the Trainer has done."""
        return int(self._trainer.state.global_step)

    @property
    def optimizers(self) -> tuple[Any]:
        """The optimizer within accelerate's wrapper."""
        self._start()
        return (_unwrapped(self._trainer.optimizer),)

    def _restored(self, checkpoint: Path) -> tuple[str, ...]:
        trainer = self._trainer
        load_generators = trainer._load_rng_state  # noqa: SLF001 - transformers has no public function for this
        vars(trainer)["_load_rng_state"] = _do_nothing  # the loop would load them after its first batch: too late
        restored = super()._restored(checkpoint)
        load_generators(str(checkpoint))
        return restored

    def save(self, folder: Path) -> Path:
        """Write a Trainer checkpoint, `folder/checkpoint-<step>`."""
        self._start()
        trainer, arguments = self._trainer, self._trainer.args
        name = f"checkpoint-{self.updates}"
        staging, path = folder / f".{name}.tmp", folder / name
        output_dir, arguments.output_dir = arguments.output_dir, str(staging)
        try:
            trainer._save_checkpoint(trainer.model_wrapped, trial=None)  # noqa: SLF001 - transformers has no public function
        finally:
            arguments.output_dir = output_dir
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            if path.exists():
                shutil.rmtree(path)
            (staging / name).rename(path)
            staging.rmdir()
        trainer.accelerator.wait_for_everyone()
        return path

    @property
    def _data(self) -> LoaderBatches:
        return self._loader_batches

    @property
    def _model(self) -> nn.Module:
        return self._trainer.model

    def _training(self, checkpoint: Path | None) -> Callable[[], Any]:
        trainer = self._trainer
        if checkpoint is None:
            return trainer.train
        trainer.args.output_dir = str(checkpoint.parent)  # where callbacks look for the restored checkpoint
        return lambda: trainer.train(resume_from_checkpoint=str(checkpoint))

    def _sections(self) -> TrainState:
        trainer = self._trainer
        return TrainState(
            trainer.model, _unwrapped(trainer.optimizer), trainer.lr_scheduler, trainer.accelerator.scaler
        )

    def _set_updates(self, updates: int) -> None:
        if updates != self.updates:
            self._trainer.state.global_step = updates
            self._trainer._globalstep_last_logged = updates  # noqa: SLF001 - transformers offers no setter

    def _backward(self, parts: Sequence[Any]) -> float:
        trainer = self._trainer
        samples, items = trainer.get_batch_samples(iter(parts), len(parts), trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(samples)
        loss = sum(float(trainer.training_step(trainer.model_wrapped, sample, items)) for sample in samples)
        scaler = trainer.accelerator.scaler
        if scaler is not None:
            for parameter in (p for p in trainer.model.parameters() if p.grad is not None):
                parameter.grad.div_(scaler.get_scale())
        return loss


def _disable_saving_and_reporting(trainer: Trainer) -> None:
    """Only the driver writes files and reports."""
    arguments: Any = trainer.args
    arguments.save_strategy = "no"
    arguments.load_best_model_at_end = False
    arguments.push_to_hub = False
    handler = trainer.callback_handler
    handler.callbacks = [
        callback
        for callback in handler.callbacks
        if not isinstance(callback, (HuggingFaceCallback, ProgressCallback, PrinterCallback))
        and not type(callback).__module__.startswith("transformers.integrations")
    ]


def _do_nothing(*_: Any) -> None:
    pass


def _unwrapped(optimizer: Any) -> Any:
    """torch's optimizer: accelerate's wrapper has no step hooks."""
    return getattr(optimizer, "optimizer", optimizer)
