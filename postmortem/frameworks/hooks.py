"""Recording from a trainer that takes a hook object: `on_train_begin`, `on_step_end`, `on_eval_end`,
`on_checkpoint_save`, `on_train_end` and `on_instability`.

    runner = HookRunner([PostmortemHook("runs/exp7")])

The shape is that of KempnerForge's `TrainingHook`, where `on_step_end` gets one context with `step`, `loss`,
`grad_norm`, `lr`, `tokens_seen`, `model` and `optimizer`; any object with such attributes will do, as will keyword
arguments. Such trainers count updates that are done: the row of step t comes with the count t + 1 (`counts_from=1`).
For one that numbers its updates from 0, say `counts_from=0`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postmortem.errors import UsageError
from postmortem.frameworks._recording import Recording, Run, place

if TYPE_CHECKING:
    from postmortem.record.recorder import Recorder
    from postmortem.record.watch import Watch

# What is taken from a context that is an object; a mapping or keywords are taken whole.
_OF_CONTEXT = ("step", "loss", "grad_norm", "lr", "tokens_seen", "batch", "model", "optimizer")
_NO_COLUMNS = {"step", "batch", "batch_index", "model", "optimizer"}


class PostmortemHook:
    """Records into `run`: a directory, or a Recorder that the caller made and closes.

    `watch` also samples the model and optimizer of the contexts (`Recorder.watch` at its defaults), from the second
    step on. `counts_from` is 1 where the trainer's `step` counts updates that are done, 0 where it is the update's
    number. Further keywords become columns of the step or keys of the event. A training whose first step is not the
    first of all is journalled as resumed.
    """

    def __init__(self, run: Run, *, watch: bool = False, counts_from: int = 1) -> None:
        self._recording = Recording(run)
        self._watch = watch
        self._counts_from = counts_from
        self._first = True  # no step of this training was seen yet
        self._watching: Watch | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder in use; None outside a training."""
        return self._recording.recorder

    def on_train_begin(self, config: object = None, **config_keys: Any) -> None:
        """`config`: a mapping, a dataclass or any object with attributes; keywords are added to it."""
        self._recording.begin({**_config(config), **config_keys}, {})
        self._first = True

    def on_step_end(self, context: object = None, **columns: Any) -> None:
        """After each update: `step`, and columns such as `loss`, `grad_norm` (before clipping), `lr`; numbers or 0-d
        tensors. `batch` (and `batch_index`) is what the step consumed, as `Recorder.batch` takes it.
        """
        recorder = self._using("on_step_end")
        given = {**_context(context), **columns}
        step = self._step(given.get("step"), "on_step_end")
        first, self._first = self._first, False
        if first and step:
            recorder.resumed(step)
        if given.get("batch") is not None:
            recorder.batch(step, given["batch"], index=given.get("batch_index"))
        recorder.log(step, {key: value for key, value in given.items() if key not in _NO_COLUMNS})
        if self._watch and first and given.get("model") is not None:
            self._watching = recorder.watch(given["model"], given.get("optimizer"))

    def on_eval_end(self, metrics: Mapping[str, Any], step: int, **keys: Any) -> None:
        """After an evaluation, with its metrics by name; `loss` among them is the held-out loss."""
        row = {"eval_loss" if key in ("loss", "eval/loss") else key: value for key, value in metrics.items()}
        self._using("on_eval_end").log(self._step(step, "on_eval_end"), {**row, **keys})

    def on_checkpoint_save(self, step: int, path: str | os.PathLike[str] | None = None, **keys: Any) -> None:
        """After a checkpoint was written: to `path`, or to its folder `step_<step>`."""
        recorder = self._using("on_checkpoint_save")
        updates = step + 1 - self._counts_from
        where: dict[str, str] = {}
        if path is not None:
            within = Path(path) / f"step_{step}"
            where = place(recorder.path, within if within.is_dir() else path)
        recorder.event("checkpoint", updates, **{"role": "recovery", **where, **keys})

    def on_train_end(self, step: int | None = None, tokens_seen: int | None = None, **keys: Any) -> None:
        """After the last step; the run's end is journalled, and what is given with it."""
        told = {"tokens_seen": tokens_seen, **keys}
        if self.recorder is not None and any(value is not None for value in told.values()):
            self.recorder.event("trainer_end", step, **told)
        if self._watching is not None:
            self._watching.close()
            self._watching = None
        self._recording.end()

    def on_instability(self, step: int, kind: str = "instability", **keys: Any) -> None:
        """The trainer saw something go wrong (`nan`, `loss_spike`, …) or did something about it: an incident."""
        self._using("on_instability").incident(self._step(step, "on_instability"), kind, **keys)

    def _using(self, caller: str) -> Recorder:
        if self.recorder is None:
            raise UsageError(f"{caller} was called outside a training: call on_train_begin first")
        return self.recorder

    def _step(self, step: object, caller: str) -> int:
        """The number of the update, from 0, that the trainer's `step` is about."""
        if isinstance(step, bool) or not isinstance(step, int):
            raise UsageError(f"{caller} needs the trainer's step, a whole number; it was given {step!r}")
        return max(step - self._counts_from, 0)


def _config(config: object) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return {str(key): value for key, value in cast(Mapping[object, Any], config).items()}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return dict(vars(config))


def _context(context: object) -> dict[str, Any]:
    if context is None:
        return {}
    if isinstance(context, Mapping):
        return {str(key): value for key, value in cast(Mapping[object, Any], context).items()}
    return {name: getattr(context, name) for name in _OF_CONTEXT if hasattr(context, name)}
