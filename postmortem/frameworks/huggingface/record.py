"""Records a Hugging Face `Trainer` with one callback.

    Trainer(…, callbacks=[HuggingFaceCallback("runs/exp7")])

One row per update, without synchronization: the loss that the model returned, the learning rate of the update, the hash
of its batch. `Trainer.state.global_step` counts finished updates, so the row of step t is written when it is t + 1. The
Trainer reports the gradient norm only at logging steps (use `logging_steps=1` to get all of them); it is the norm
before clipping.

The Trainer's own logged loss is an average over `logging_steps`, and by default a NaN in it is replaced by the average
before it (`logging_nan_inf_filter`). So the model's own loss is recorded, unless the Trainer logs each step unfiltered,
or the model returns no loss (label smoothing, `compute_loss_func`): then it is the Trainer's loss, at logging steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postmortem.errors import MissingExtra
from postmortem.frameworks._recording import (
    Recording,
    Run,
    checkpoint_location,
    dtype_name,
    integer_ids,
    join_micro_batches,
)

try:
    import torch
    from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments
except ImportError as error:
    raise MissingExtra("Recording a Hugging Face Trainer", "huggingface") from error

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from postmortem.record.recorder import Recorder
    from postmortem.record.token_ids import Ids
    from postmortem.record.watch import Watch

# Files of a Trainer checkpoint, by the piece of state that they restore. The Trainer keeps the initial state of others.
_PIECES = {
    "model": ("*.safetensors", "pytorch_model*", "adapter_model*"),
    "optimizer": ("optimizer*", "global_step*"),
    "schedule": ("scheduler.pt",),
    "rng": ("rng_state*",),
    "scaler": ("scaler.pt",),
}
_NOT_MEASURED = {"epoch", "loss", "learning_rate"}


class HuggingFaceCallback(TrainerCallback):
    """Records into `run`: a directory, or a Recorder that the caller created and closes.

    With a directory, run.json gets the training arguments and the model's configuration, or `config` instead of them,
    and the name of the `program` ("train:build") that a replay builds from that config. `watch` also samples the model
    and optimizer (`Recorder.watch` with its defaults).
    """

    def __init__(
        self, run: Run, *, watch: bool = False, program: str | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        self._recording = Recording(run, program, config)
        self._watch = watch
        self._hooks: list[RemovableHandle] = []
        self._watching: Watch | None = None
        self._saved: list[Path] = []
        self._begin_step(0)
        self._row: dict[str, Any] | None = None  # the row of a finished step, which waits for what the Trainer logs

    @property
    def recorder(self) -> Recorder | None:
        """The recorder in use; None outside `train`."""
        return self._recording.recorder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model = cast("nn.Module", kwargs["model"])
        recorder = self._recording.begin(_config(args, model), _manifest(args, model))
        # Then the logged loss is that of exactly one step, NaN included.
        self._logged_is_exact = state.logging_steps == 1 and not args.logging_nan_inf_filter
        self._loss_shares = args.world_size if args.average_tokens_across_devices else 1
        self._indexed = not (state.global_step and args.ignore_data_skip)
        self._row = None
        self._remove_hooks()
        self._name = str(getattr(model, "main_input_name", "input_ids"))
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]
        if self._watch:
            optimizer = kwargs["optimizer"]  # accelerate's wrapper has none of torch's step hooks
            self._watching = recorder.watch(model, getattr(optimizer, "optimizer", optimizer))
        if state.global_step:
            self._resumed(recorder, args, state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._log_row()
        self._begin_step(state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._lr = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.recorder is None:
            return
        row: dict[str, Any] = {"lr": self._lr}
        if self._losses:
            row["loss"] = self._loss()
        if args.max_grad_norm and args.max_grad_norm > 0:
            row["clip_threshold"] = args.max_grad_norm
        ids = join_micro_batches(self._batches)
        if ids is not None:
            self.recorder.batch(self._step, ids, index=self._step if self._indexed else None)
        self._row = row
        if not control.should_log:
            self._log_row()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if (
            self._row is None or logs is None or "loss" not in logs
        ):  # the log of an evaluation, or of the whole training
            return
        if self._logged_is_exact or "loss" not in self._row:
            self._row["loss"] = logs["loss"]
        self._row.update(_numbers({key: value for key, value in logs.items() if key not in _NOT_MEASURED}))
        self._log_row()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The parameters are those after the last update, so the metrics belong to its row."""
        if self.recorder is not None and metrics:
            self._log_row()
            row = _numbers({key: value for key, value in metrics.items() if key != "epoch"})
            self.recorder.log(max(state.global_step - 1, 0), row)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.recorder is None or not state.is_world_process_zero:
            return
        folder = _checkpoint(args, state.global_step)
        contents = "parameters" if args.save_only_model else "full"
        self.recorder.event(
            "checkpoint",
            state.global_step,
            role="recovery",
            contents=contents,
            **checkpoint_location(self.recorder.path, folder),
        )
        for deleted in [saved for saved in self._saved if not saved.exists()]:
            self._saved.remove(deleted)
            step = int(deleted.name.rpartition("-")[2])
            self.recorder.event(
                "checkpoint_deleted", step, role="recovery", **checkpoint_location(self.recorder.path, deleted)
            )
        self._saved.append(folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._log_row()
        self._remove_hooks()
        self._recording.end()

    def _begin_step(self, step: int) -> None:
        self._step = step
        self._lr: object = None
        self._batches: list[Ids | Tensor] = []
        self._losses: list[Tensor] = []
        self._summed = False

    def _before_forward(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            ids = integer_ids(kwargs.get(self._name, args[0] if args else None))
            if ids is not None:
                self._batches.append(ids)

    def _after_forward(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if model.training and torch.is_grad_enabled():
            loss = output.get("loss") if isinstance(output, Mapping) else None
            if isinstance(loss, torch.Tensor) and loss.numel() == 1:
                self._losses.append(loss.detach().clone())  # the Trainer scales it in place
                self._summed = kwargs.get("num_items_in_batch") is not None

    def _loss(self) -> Tensor:
        """The step's loss from those of its micro-batches: the sum if the model divided each by the number of tokens in
        all of them, otherwise the mean.
        """
        losses = torch.stack(self._losses) if len(self._losses) > 1 else self._losses[0]
        return losses.sum() * self._loss_shares if self._summed else losses.mean()

    def _log_row(self) -> None:
        row, self._row = self._row, None
        if row is not None and self.recorder is not None:
            self.recorder.log(self._step, row)

    def _resumed(self, recorder: Recorder, args: TrainingArguments, step: int) -> None:
        """Journal the resume, and which pieces of the state the checkpoint contains."""
        folder = _checkpoint(args, step)
        if not folder.is_dir():  # it resumed from another folder, which callbacks do not know
            recorder.resumed(step)
            return
        restored = [piece for piece, names in _PIECES.items() if any(any(folder.glob(name)) for name in names)]
        recorder.resumed(step, folder, restored=[*restored, *([] if args.ignore_data_skip else ["loader"])])

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._watching is not None:
            self._watching.close()
            self._watching = None


def _config(args: TrainingArguments, model: nn.Module) -> dict[str, Any]:
    """The training arguments, with access tokens masked, and under `model` the model's configuration if it has one."""
    model_config: Any = getattr(model, "config", None)
    return {**args.to_dict(), **({"model": model_config.to_dict()} if hasattr(model_config, "to_dict") else {})}


def _manifest(args: TrainingArguments, model: nn.Module) -> dict[str, Any]:
    parameter = next(model.parameters(), None)
    parameter_dtype = dtype_name(parameter.dtype) if parameter is not None else None
    return {"seed": args.seed, "dtype": "bf16" if args.bf16 else "fp16" if args.fp16 else parameter_dtype}


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{step}"


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are numbers, NaN included."""
    return {key: value for key, value in values.items() if isinstance(value, (int, float))}
