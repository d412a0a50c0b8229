"""What the callbacks share: whose recorder it is, where a foreign checkpoint lies, what a step's batch was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from postmortem.errors import UsageError
from postmortem.record.recorder import Recorder
from postmortem.record.ring import Ids, ids_of

if TYPE_CHECKING:
    from torch import Tensor

Run: TypeAlias = "Recorder | str | os.PathLike[str]"

_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


class Recording:
    """A recorder for the length of one training: opened here and closed here, unless the caller brought their own.

    A caller who wants to set anything about the recorder makes it and closes it; run.json then says what they said.
    `program` and `config` are what run.json names where it is made here; without a config, it is the framework's.
    """

    def __init__(self, run: Run, program: str | None = None, config: Mapping[str, Any] | None = None) -> None:
        self._run, self._program, self._config = run, program, config
        self._open: Recorder | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder in use; None outside a training."""
        return self._open

    def begin(self, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Recorder:
        """The recorder of a training that begins now. One that broke off before, in this process, is closed first."""
        self.end(RuntimeError("another training began before this one ended"))
        if isinstance(self._run, (str, os.PathLike)):
            named = {} if self._program is None else {"program": self._program}
            own = config if self._config is None else self._config
            self._open = Recorder(Path(self._run), config=own, manifest={**manifest, **named})
        else:
            self._open = self._run
        return self._open

    def end(self, error: BaseException | None = None) -> None:
        """Close what `begin` opened; the journal's `run_end` tells of `error`. Ending twice does nothing."""
        recorder, self._open = self._open, None
        if recorder is not None and recorder is not self._run:
            recorder.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def place(run: Path, checkpoint: str | os.PathLike[str]) -> dict[str, str]:
    """How an event names a checkpoint: `path` relative to the run where it lies inside, or else `where` as plain text,
    because a reader follows no path that leads out of a run.
    """
    target, base = Path(checkpoint).resolve(), run.resolve()
    return {"path": target.relative_to(base).as_posix()} if target.is_relative_to(base) else {"where": str(target)}


def known_by(batch: object) -> Ids | Tensor | None:
    """The whole numbers that a batch is known by, where `Recorder.batch` would find some. Pictures and sound have none:
    hashing them costs more, and they are nothing to write out around an incident.
    """
    try:
        found = ids_of(batch)
    except (UsageError, TypeError):  # TypeError: a dtype that NumPy does not know
        return None
    if isinstance(found, np.ndarray):
        return found if found.dtype.kind in "iu" else None
    return None if found.is_floating_point() else found


def joined(parts: Sequence[Ids | Tensor]) -> Ids | Tensor | None:
    """The batch of one step from those of its micro-batches: along the first dimension where the others agree, as one
    line of ids where they do not; None without any.
    """
    if len(parts) < 2:
        return parts[0] if parts else None
    if len({tuple(part.shape[1:]) for part in parts}) > 1:
        parts = [part.reshape(-1) for part in parts]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if arrays:
        return np.concatenate(arrays)
    import torch

    return torch.cat(cast("list[Tensor]", parts))


def dtype_name(dtype: object) -> str:
    """`fp32`, `bf16`, … for torch.float32, torch.bfloat16, …; other dtypes by torch's own name."""
    name = str(dtype).removeprefix("torch.")
    return _DTYPES.get(name, name)
