"""What the recording callbacks share: opening the recorder, naming checkpoints, finding the ids of a batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from postmortem.errors import UsageError
from postmortem.record.recorder import Recorder
from postmortem.record.token_ids import Ids, ids_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Run: TypeAlias = "Recorder | str | os.PathLike[str]"

_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


class Recording:
    """The recorder of one training: opened and closed here, unless `run` is the caller's own recorder.

    A caller who wants to configure the recorder creates and closes it; run.json then contains what they chose.
    Otherwise `program` and `config` go into run.json; without a config, the framework's own settings do.
    """

    def __init__(self, run: Run, program: str | None = None, config: Mapping[str, Any] | None = None) -> None:
        self._run, self._program, self._config = run, program, config
        self._open: Recorder | None = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder in use; None outside a training."""
        return self._open

    def begin(self, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Recorder:
        """Open the recorder of a training that begins now. The recorder of an interrupted training is closed first."""
        self.end(RuntimeError("another training began before this one ended"))
        if isinstance(self._run, (str, os.PathLike)):
            program = {} if self._program is None else {"program": self._program}
            own_config = config if self._config is None else self._config
            self._open = Recorder(Path(self._run), config=own_config, manifest={**manifest, **program})
        else:
            self._open = self._run
        return self._open

    def end(self, error: BaseException | None = None) -> None:
        """Close what `begin` opened; the journal's `run_end` records `error`. Ending twice has no effect."""
        recorder, self._open = self._open, None
        if recorder is not None and recorder is not self._run:
            recorder.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def checkpoint_location(run: Path, checkpoint: str | os.PathLike[str]) -> dict[str, str]:
    """The keys by which an event names a checkpoint: `path`, relative to the run, if it is inside; otherwise `where`,
    as plain text, because readers follow no path that leads out of a run.
    """
    target, base = Path(checkpoint).resolve(), run.resolve()
    return {"path": target.relative_to(base).as_posix()} if target.is_relative_to(base) else {"where": str(target)}


def integer_ids(batch: object) -> Ids | Tensor | None:
    """The integer ids of a batch, as `Recorder.batch` would find them; None if there are none. Images and sound have no
    ids: they are expensive to hash, and too large to write out around an incident.
    """
    try:
        ids = ids_of(batch)
    except (UsageError, TypeError):  # TypeError: NumPy does not know the dtype
        return None
    if isinstance(ids, np.ndarray):
        return ids if ids.dtype.kind in "iu" else None
    return None if ids.is_floating_point() else ids


def join_micro_batches(parts: Sequence[Ids | Tensor]) -> Ids | Tensor | None:
    """The ids of one step from those of its micro-batches: joined along the first dimension if the other dimensions
    agree, as one flat sequence otherwise; None if there are no micro-batches.
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


def as_array(ids: Any) -> NDArray[Any]:
    """`ids`, a tensor on any device or an array, as an array."""
    return cast("NDArray[Any]", ids if isinstance(ids, np.ndarray) else ids.cpu().numpy())


def dtype_name(dtype: object) -> str:
    """`fp32`, `bf16`, … for torch.float32, torch.bfloat16, …; torch's own name for other dtypes."""
    name = str(dtype).removeprefix("torch.")
    return _DTYPES.get(name, name)
