"""Records a Lightning `Trainer` with one callback.

    Trainer(…, callbacks=[LightningCallback("runs/exp7")])

One row per update, without synchronization: the loss that `training_step` returned (the mean over accumulated batches),
the learning rate of the update, the gradient norm before clipping, the hash of a batch of ids (a tensor, the first
element of a tuple, or the value of `input_ids`, `tokens`, `ids` or `x`). A step is the value of `Trainer.global_step`
before the update; with several optimizers it counts the updates of each, as Lightning does.

Lightning's checkpoints contain no state of the random generators. The callback adds it, under "postmortem", so that a
replay can draw the same dropout; a resume by Lightning ignores it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from postmortem.errors import MissingExtra
from postmortem.frameworks._recording import Recording, Run, checkpoint_location, integer_ids, join_micro_batches
from postmortem.run.naming import assign_columns

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.optim import Optimizer

    from postmortem.record.recorder import Recorder
    from postmortem.record.token_ids import Ids
    from postmortem.record.watch import Watch
else:  # both packages have the same classes, but the Trainer of one takes no callback of the other
    try:
        import torch

        try:
            from lightning.pytorch import Callback, LightningModule, Trainer
            from lightning.pytorch.callbacks import ModelCheckpoint
        except ImportError:
            from pytorch_lightning import Callback, LightningModule, Trainer
            from pytorch_lightning.callbacks import ModelCheckpoint
    except ImportError as error:
        raise MissingExtra("Recording a Lightning Trainer", "lightning") from error

_PRECISIONS = {"16": "fp16", "bf16": "bf16", "32": "fp32", "64": "fp64"}
# Section of a Lightning checkpoint → the piece of state that it restores; the loader's section is nested deeper.
_PIECES = {
    "state_dict": "model",
    "optimizer_states": "optimizer",
    "lr_schedulers": "schedule",
    "MixedPrecision": "scaler",
}
_OURS = "postmortem"  # the section that this callback adds to a checkpoint


class LightningCallback(Callback):
    """Records into `run`: a directory, or a Recorder that the caller created and closes.

    With a directory, run.json gets the module's hyperparameters and the Trainer's settings, or `config` instead of
    them, and the name of the `program` ("train:build") that a replay builds from that config. `watch` also samples the
    model and its first optimizer (`Recorder.watch` with its defaults). Under FSDP with flattened parameters,
    `grad_norm` is that of each rank's shard.
    """

    def __init__(
        self, run: Run, *, watch: bool = False, program: str | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        self._recording = Recording(run, program, config)
        self._watch = watch
        self._watching: Watch | None = None
        self._restored: list[str] | None = None
        self._saving = False  # whether a checkpoint is being saved whose file was not found yet
        self._saved: dict[str, tuple[int, int, str]] = {}  # path → (mtime in ns, step, role)
        self._begin_step(0)

    @property
    def recorder(self) -> Recorder | None:
        """The recorder in use; None outside `fit`."""
        return self._recording.recorder

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        restored = [piece for section, piece in _PIECES.items() if checkpoint.get(section)]
        fit = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._restored = [*restored, *(["loader"] if fit.get("combined_loader") else [])]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recorder = self._recording.begin(_config(trainer, pl_module), _manifest(trainer))
        if self._watch:
            self._watching = recorder.watch(pl_module, trainer.optimizers[0], scaler=trainer.scaler)
        self._saved = {path: (_modified_ns(path), 0, role) for path, (role, _) in _list_checkpoints(trainer).items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recorder, restored, self._restored = self.recorder, self._restored, None
        self._begin_step(trainer.global_step)
        self._indexed = restored is None or "loader" in restored  # a loader that was not restored has other batches
        if recorder is not None and restored is not None:
            recorder.resumed(trainer.global_step, trainer.ckpt_path, restored=restored)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._row["lr"] = optimizer.param_groups[0]["lr"]
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            full = getattr(norm, "full_tensor", None)  # a DTensor: reduce it over the shards
            self._row["grad_norm"] = norm if full is None else full()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._journal_checkpoints(trainer)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach())
        ids = integer_ids(batch)
        if ids is not None:
            self._batches.append(ids)
        if trainer.global_step == self._step or self.recorder is None:
            return  # the update needs more batches
        if self._losses:
            # Lightning divides each by the requested number, even if the update has fewer batches.
            self._row["loss"] = torch.stack(self._losses).mean() * trainer.accumulate_grad_batches
        if trainer.gradient_clip_val and trainer.gradient_clip_algorithm in (None, "norm"):
            self._row["clip_threshold"] = trainer.gradient_clip_val
        whole = join_micro_batches(self._batches)
        if whole is not None:
            self.recorder.batch(self._step, whole, index=self._step if self._indexed else None)
        self.recorder.log(self._step, self._row)
        self._begin_step(trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The parameters are those after the last update, so the held-out loss belongs to its row."""
        if self.recorder is None or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        metric_name = assign_columns(list(metrics), {}, {}, "").logged_as.get("eval_loss")
        if metric_name is not None:
            self.recorder.log(max(trainer.global_step - 1, 0), {"eval_loss": metrics[metric_name]})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saving = True
        checkpoint[_OURS] = {"rng": generator_states()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._journal_checkpoints(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end(trainer, exception)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer)

    def _end(self, trainer: Trainer, error: BaseException | None = None) -> None:
        self._journal_checkpoints(trainer)
        if self._watching is not None:
            self._watching.close()
            self._watching = None
        self._recording.end(error)

    def _begin_step(self, step: int) -> None:
        self._step = step
        self._row: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._batches: list[Ids | Tensor] = []

    def _journal_checkpoints(self, trainer: Trainer) -> None:
        """Compare the checkpoints that the checkpoint callbacks list with those that they listed before: Lightning
        calls no hook after a checkpoint is written, and tells no hook its path.
        """
        listed = _list_checkpoints(trainer)
        new = self._saving or not listed.keys() <= self._saved.keys()  # saving only weights calls no hook at all
        if not new or self.recorder is None or not trainer.is_global_zero:
            return
        self._saving = False
        for path, (role, contents) in listed.items():
            written = _modified_ns(path)
            if written and written != self._saved.get(path, (0, 0, ""))[0]:
                self._saved[path] = (written, self._step, role)
                location = checkpoint_location(self.recorder.path, path)
                self.recorder.event("checkpoint", self._step, role=role, contents=contents, **location)
        for path in [path for path in self._saved if not Path(path).exists()]:
            _, step, role = self._saved.pop(path)
            self.recorder.event("checkpoint_deleted", step, role=role, **checkpoint_location(self.recorder.path, path))


def generator_states() -> dict[str, Any]:
    """The state of the global generators in plain types and tensors, so that loading it unpickles no class."""
    algorithm, keys, *rest = cast("tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state(legacy=True))
    states = {"python": random.getstate(), "numpy": (algorithm, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_initialized() else states


def saved_generators(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The `generator_states` in `checkpoint`; None if it was saved without this callback."""
    return checkpoint.get(_OURS, {}).get("rng")


def restore_generators(state: Mapping[str, Any]) -> None:
    """Set the global generators to the states that `generator_states` returned."""
    random.setstate(state["python"])
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def _list_checkpoints(trainer: Trainer) -> dict[str, tuple[str, str]]:
    """path → (role, contents) of the checkpoints that the Trainer's checkpoint callbacks keep."""
    checkpoints: dict[str, tuple[str, str]] = {}
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            contents = "parameters" if callback.save_weights_only else "full"
            newest = dict.fromkeys((callback.best_model_path, callback.last_model_path), ("recovery", contents))
            checkpoints |= newest | {str(path): ("best-k", contents) for path in callback.best_k_models}
    checkpoints.pop("", None)
    return checkpoints


def _modified_ns(path: str) -> int:
    """When `path` was written, in ns; 0 if it does not exist."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def _config(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """The module's hyperparameters, and under `trainer` the settings that affect updates."""
    settings = {
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": trainer.gradient_clip_algorithm,
        "precision": str(trainer.precision),
    }
    return {**dict(module.hparams), "trainer": settings}


def _manifest(trainer: Trainer) -> dict[str, Any]:
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    kind = str(trainer.precision).partition("-")[0]
    return {"dtype": _PRECISIONS.get(kind, kind), **({"seed": int(seed)} if seed.isdigit() else {})}
