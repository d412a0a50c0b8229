"""Records the runs of any trainer that calls the methods of a hook object.

    runner = HookRunner([PostmortemHook("runs/exp7")])

The methods are those of KempnerForge's `TrainingHook`: `on_train_begin`, `on_step_end`, `on_eval_end`,
`on_checkpoint_save`, `on_train_end`; further `on_instability`. `on_step_end` gets one context with `step`, `loss`,
`grad_norm`, `lr`, `tokens_seen`, `model` and `optimizer`: any object with such attributes, a mapping, or keyword
arguments. Such trainers count finished updates: the row of step t comes with the count t + 1 (`counts_from=1`). For a
trainer that numbers its updates from 0, use `counts_from=0`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postmortem.errors import UsageError
from postmortem.frameworks._recording import Recording, Run, checkpoint_location

if TYPE_CHECKING:
    from postmortem.record.recorder import Recorder
    from postmortem.record.watch import Watch

# The attributes that are read from a context object; of a mapping or keywords, everything is read.
_CONTEXT_ATTRIBUTES = ("step", "loss", "grad_norm", "lr", "tokens_seen", "batch", "model", "optimizer")
_NO_COLUMNS = {"step", "batch", "batch_index", "model", "optimizer"}


class PostmortemHook:
    """Records into `run`: a directory, or a Recorder that the caller created and closes.

    `watch` also samples the model and optimizer of the contexts (`Recorder.watch` with its defaults), from the second
    step on. `counts_from` is 1 if the trainer's `step` counts finished updates, 0 if it is the number of the update.
    Further keywords become columns of the step or keys of the event. If the first step of a training is not step 0, the
    journal records a resume.
    """

    def __init__(self, run: Run, *, watch: bool = False, counts_from: int = 1) -> None:
        self._recording = Recording(run)
        self._watch = watch
        self._counts_from = counts_from
        self._first = True  # whether no step of this training has ended yet
        self._watching: Watch | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder in use; None outside a training."""
        return self._recording.recorder

    def on_train_begin(self, config: object = None, **config_keys: Any) -> None:
        """`config`: a mapping, a dataclass or any object with attributes; keywords are added to it."""
        self._recording.begin({**_config_keys(config), **config_keys}, {})
        self._first = True

    def on_step_end(self, context: object = None, **columns: Any) -> None:
        """After each update: `step`, and columns such as `loss`, `grad_norm` (before clipping), `lr`; numbers or 0-d
        tensors. `batch` (and `batch_index`) is what the step consumed, as `Recorder.batch` takes it.
        """
        recorder = self._require_recorder("on_step_end")
        values = {**_context_keys(context), **columns}
        step = self._step(values.get("step"), "on_step_end")
        first, self._first = self._first, False
        if first and step:
            recorder.resumed(step)
        if values.get("batch") is not None:
            recorder.batch(step, values["batch"], index=values.get("batch_index"))
        recorder.log(step, {key: value for key, value in values.items() if key not in _NO_COLUMNS})
        if self._watch and first and values.get("model") is not None:
            self._watching = recorder.watch(values["model"], values.get("optimizer"))

    def on_eval_end(self, metrics: Mapping[str, Any], step: int, **keys: Any) -> None:
        """After an evaluation, with its metrics by name; `loss` among them is the held-out loss."""
        row = {"eval_loss" if key in ("loss", "eval/loss") else key: value for key, value in metrics.items()}
        self._require_recorder("on_eval_end").log(self._step(step, "on_eval_end"), {**row, **keys})

    def on_checkpoint_save(self, step: int, path: str | os.PathLike[str] | None = None, **keys: Any) -> None:
        """After a checkpoint was written: to `path`, or to its folder `step_<step>`."""
        recorder = self._require_recorder("on_checkpoint_save")
        updates = step + 1 - self._counts_from
        location: dict[str, str] = {}
        if path is not None:
            folder = Path(path) / f"step_{step}"
            location = checkpoint_location(recorder.path, folder if folder.is_dir() else path)
        recorder.event("checkpoint", updates, **{"role": "recovery", **location, **keys})

    def on_train_end(self, step: int | None = None, tokens_seen: int | None = None, **keys: Any) -> None:
        """After the last step; the journal records the end of the run and the given totals."""
        totals = {"tokens_seen": tokens_seen, **keys}
        if self.recorder is not None and any(value is not None for value in totals.values()):
            self.recorder.event("trainer_end", step, **totals)
        if self._watching is not None:
            self._watching.close()
            self._watching = None
        self._recording.end()

    def on_instability(self, step: int, kind: str = "instability", **keys: Any) -> None:
        """When the trainer detected a problem (`nan`, `loss_spike`, …) or reacted to one: the journal records an
        incident."""
        self._require_recorder("on_instability").incident(self._step(step, "on_instability"), kind, **keys)

    def _require_recorder(self, caller: str) -> Recorder:
        if self.recorder is None:
            raise UsageError(f"{caller} was called outside a training: call on_train_begin first")
        return self.recorder

    def _step(self, step: object, caller: str) -> int:
        """The number of the update, from 0, to which the trainer's `step` belongs."""
        if isinstance(step, bool) or not isinstance(step, int):
            raise UsageError(f"{caller} needs the trainer's step, a whole number; it was given {step!r}")
        return max(step - self._counts_from, 0)


def _config_keys(config: object) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return {str(key): value for key, value in cast(Mapping[object, Any], config).items()}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return dict(vars(config))


def _context_keys(context: object) -> dict[str, Any]:
    if context is None:
        return {}
    if isinstance(context, Mapping):
        return {str(key): value for key, value in cast(Mapping[object, Any], context).items()}
    return {name: getattr(context, name) for name in _CONTEXT_ATTRIBUTES if hasattr(context, name)}
