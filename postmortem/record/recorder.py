"""The recorder: takes what a training loop hands over at each step, within microseconds.

    with Recorder("runs/exp7", config=config) as rec:
        for step, batch in enumerate(loader):
            rec.batch(step, batch)
            …
            rec.log(step, loss=loss, grad_norm=norm, lr=lr)

This file is the part that runs in the training thread: it looks at each value once and appends to a queue. A background
thread finishes the rows (`row_processor`) and writes them (`background`). Only what must be on disk before a crash is
written at once: the first row of a non-finite episode, incidents, and events.
"""

from __future__ import annotations

import atexit
import operator
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from postmortem.errors import UsageError
from postmortem.record.background import QueuedEntry
from postmortem.record.cells import CellReader, finite_numbers_only, take_arrays
from postmortem.record.input_warnings import InputWarnings
from postmortem.record.lock import after_fork
from postmortem.record.row_processor import DENSE_STEPS, RowProcessor
from postmortem.record.segment import RunDetails, ranks_of_process
from postmortem.record.token_ids import TokenIds, WhichTokenIds, ids_of
from postmortem.record.transfer import Transfer
from postmortem.text import plain

if TYPE_CHECKING:
    from torch import Tensor
    from torch.amp import GradScaler
    from torch.nn import Module
    from torch.optim import Optimizer

    from postmortem.record.watch import Watch

_LAST_STEP = 2**53  # beyond it, floats cannot tell two steps apart
_REWINDS = {"resume": "from_step", "rollback": "to_step"}


class Recorder:
    """Records one rank of one training into a run directory. A context manager; safe to call from several threads.

    Reopening a directory continues it as the next attempt. `attempt` is the number of the attempt, counted from 0.
    `failure` says why rows are kept in memory at present, if they are.

    Example:
        >>> with pm.Recorder("runs/exp7") as rec:
        ...     rec.log(0, loss=2.31, lr=3e-4)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        manifest: Mapping[str, Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        attempt: int | None = None,
        flush_interval_s: float = 0.5,
        token_ids: WhichTokenIds = "incidents",
        decode: Callable[[list[int]], str] | None = None,
        provenance: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        """Open `path`, or continue it.

        Args:
            path: the run directory; it is made if it does not exist.
            config: the effective configuration; when a run is continued, changes against run.json are journaled.
            manifest: further keys of run.json (`seed`, `dtype`, `program`, `vocab`, …).
            rank: rank of this process; by default torch.distributed's, or the variable RANK.
            world_size: number of ranks; by default torch.distributed's, or the variable WORLD_SIZE.
            attempt: number of the attempt, if something else counts attempts.
            flush_interval_s: a killed process loses at most the rows of this many seconds.
            token_ids: which batches' ids are written: those around an incident, all, or none.
            decode: ids of one sample → text, called in the background thread for batches whose ids are written.
            provenance: record command line, commit and patch, packages, variables and host, without secrets.
            on_error: what happens when the directory cannot be opened or written. "warn": one warning; the rows are
                kept and written later. "raise": a RecordingError from the next call.

        Raises:
            UsageError: an argument has no valid value.
            RecordingError: with `on_error="raise"`, where the directory cannot be opened.
        """
        if not flush_interval_s > 0:
            raise UsageError(f"flush_interval_s is {flush_interval_s}; it must be positive")
        if token_ids not in ("incidents", "always", "never"):
            raise UsageError(f'token_ids is {token_ids!r}; choose "incidents", "always" or "never"')
        if on_error not in ("warn", "raise"):
            raise UsageError(f'on_error is {on_error!r}; choose "warn" or "raise"')
        process_rank, process_world_size = ranks_of_process()
        self.path = Path(path)
        self.rank = process_rank if rank is None else rank
        self.world_size = max(process_world_size, self.rank + 1) if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank {self.rank} is not in a world of {self.world_size}")
        facts = RunDetails(self.rank, self.world_size, attempt, config, manifest, provenance)
        self._warnings = InputWarnings(self.path, raises=on_error == "raise")
        self._pending_warnings = self._warnings.pending
        self._attached: dict[str, Any] = {}
        self._token_ids = TokenIds(token_ids, decode)
        self._step = -1
        self._rewinds = 0
        self._logged: int | None = None
        self._cells = CellReader(self._warnings)
        self._closed = False
        self._rows = RowProcessor(self.path, facts, self._warnings, self._token_ids, flush_interval_s)
        self._alarms = self._rows.alarms
        self._changes = self._rows.changes
        self._background = self._rows.background
        self._queue = self._background.queue
        self._background.start()
        atexit.register(self.close)
        after_fork(self._disable_in_fork)
        try:
            self._warnings.report()
        except BaseException:
            self._closed = True
            atexit.unregister(self.close)
            self._background.stop()
            raise

    @property
    def attempt(self) -> int:
        """Number of the attempt under which rows are written."""
        return (self._background.attempt or 0) + self._rewinds

    @property
    def failure(self) -> str | None:
        """Why rows are kept in memory at present; None while they are written."""
        return self._background.failure

    @property
    def logged(self) -> int | None:
        """Step of the row that was logged last; None before the first."""
        return self._logged

    @property
    def something_moved_recently(self) -> bool:
        """Whether something moved lately, so that every step is worth sampling."""
        return self._step < self._rows.dense_until

    def log(  # noqa: C901 - the training waits for every function call here
        self, step: int, metrics: Mapping[str, Any] | None = None, /, **columns: Any
    ) -> None:
        """Record one row of metrics; rows of the same step become one row.

        `metrics` and `columns` map column names (docs/run-format.md lists the canonical ones) to numbers, numpy
        scalars, tensors of one element on any device, short lists, or None where nothing was measured. A tensor on a
        device is copied asynchronously. A row with NaN or infinity in a value on the host is on disk when this returns,
        if it is the first of its kind for a while.
        """
        if self._closed:
            self._warn_closed()
            return
        if metrics is not None:
            columns = {**metrics, **columns}
        arrays = None
        if self._attached:
            attached, self._attached = self._attached, {}
            arrays = take_arrays(attached)
            columns = {**attached, **columns}
        row, device, nonfinite = columns, None, None
        if self._cells.tensor is not None or not finite_numbers_only(columns):
            row, device, nonfinite = self._cells.read(columns)
        if "time" not in row:
            row["time"] = time.time()
        valid_step = self._begin_step(step)
        if valid_step is None:
            return
        self._logged = step = valid_step
        transfer = None if device is None else self._transfer(device)
        if transfer is None or nonfinite is not None:
            self._queue.append(QueuedEntry("metrics", self._rewinds, step, row, arrays=arrays))
        if transfer is not None:
            self._queue.append(QueuedEntry("metrics", self._rewinds, step, dict(row), transfer))
        if self._alarms.add_row(step, row, nonfinite):
            self._rows.examine()
        if self._pending_warnings:
            self._warnings.report()

    def batch(self, step: int, batch: object = None, *, index: int | None = None, **facts: Any) -> None:
        """Record what is known about the batch of `step`: the hash of its token ids, its index, and further `facts`.

        `batch` is int[samples, positions] or of any other shape: a tensor, an array or nested lists of token ids, a
        mapping with `input_ids`, `tokens`, `ids` or `x`, or a tuple that begins with one of these. `index` is its
        absolute place in the data order. `facts` are columns such as `source`, `sample_ids` or `valid_labels`. Ids on
        a device are copied asynchronously and hashed in the background.
        """
        if self._closed:
            self._warn_closed()
            return
        valid_step = self._begin_step(step)
        if valid_step is None:
            return
        step = valid_step
        row = {name: value for name, value in facts.items() if value is not None} if facts else facts
        if index is not None:
            row["batch_index"] = index
        transfer = None
        if batch is not None:
            try:
                ids = ids_of(batch)
                if isinstance(ids, np.ndarray):
                    row["batch_hash"] = self._token_ids.keep(self._rewinds, step, ids)
                else:
                    transfer = self._transfer({"ids": ids})
            except UsageError as error:
                self._warnings.add("batch", error)
        self._queue.append(QueuedEntry("batches", self._rewinds, step, row, transfer))
        if self._pending_warnings:
            self._warnings.report()

    def attach(self, values: Mapping[str, Any]) -> None:
        """Add columns to the row that the next `log` writes. Values are those that `log` takes."""
        self._attached.update(values)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Add keys to run.json, such as `vocab_size`, where it does not say them already."""
        self._rows.facts.update(facts)

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        """Append one event to the journal; it is on disk when this returns.

        A `resume` or `rollback` to a step that this process has already logged begins a new attempt.
        """
        if self._closed:
            self._warn_closed()
            return
        target = keys.get(_REWINDS.get(event, ""))
        if isinstance(target, (int, np.integer)) and target <= self._step:
            target = int(target)
            self._rewinds += 1
            self._step = target - 1
            self._rows.rewind(target, self._rewinds)
            keys.setdefault("attempt", self.attempt)
        self._rows.journal(event, step, keys)
        self._warnings.report()

    def resumed(self, step: int, checkpoint: str | os.PathLike[str] | None = None, **keys: Any) -> None:
        """Journal that training continues from `checkpoint`; `step` is the first step that is done again."""
        if checkpoint is not None:
            target, base = Path(checkpoint).resolve(), self.path.resolve()
            within = target.is_relative_to(base)
            keys = {"checkpoint": target.relative_to(base).as_posix() if within else str(checkpoint), **keys}
        self.event("resume", step, from_step=step, **keys)

    def incident(self, step: int, kind: str, **keys: Any) -> None:
        """Journal an incident at `step`, write the token ids around it, and sample the next steps closely."""
        if self._closed:
            self._warn_closed()
            return
        self._rows.incident(step, kind, keys)
        self._warnings.report()

    def watch(
        self,
        model: Module,
        optimizer: Optimizer | None = None,
        *,
        norms_every: int = 10,
        layers_every: int = 50,
        hash_every: int = 100,
        dense_steps: int = DENSE_STEPS,
        scaler: GradScaler | None = None,
    ) -> Watch:
        """Sample norms, activations and moments of `model` and `optimizer`; see `postmortem.record.watch.Watch`.

        Once something moves, the next `dense_steps` steps are all sampled. Call `log` once per update, after
        `optimizer.step()`.
        """
        from postmortem.record._token_losses import TokenLossRanking
        from postmortem.record.watch import Watch, finish_watched_row

        if self._rows.finish_watched_row is not None:
            self._warnings.add("watch", "a second watch writes the columns of the first: record them in two runs")
        self._rows.dense_steps = dense_steps
        self._rows.finish_watched_row = partial(finish_watched_row, ranking=TokenLossRanking())
        return Watch(
            self,
            model,
            optimizer,
            norms_every=norms_every,
            layers_every=layers_every,
            hash_every=hash_every,
            scaler=scaler,
        )

    def state_hashes(self, tensors: Mapping[str, Tensor], /) -> dict[str, str]:
        """Group → hash of this rank's part of the named tensors, see `record.hashing.local_state_hash`."""
        from postmortem.record.hashing import local_state_hash

        return local_state_hash(tensors)

    def flush(self) -> None:
        """Write everything that was handed over; waits for values on their way from a device."""
        if not self._closed:
            self._background.write_now(wait=True)
            self._background.write_slow_entries()
            self._warnings.report()

    def close(self) -> None:
        """Write everything, turn the live tails into Parquet and release the directory. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._changes:
            self._rows.journal_changes(None)
        self._background.stop()
        self._rows.release()
        self._warnings.report()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keys: dict[str, Any] = {"status": "completed"}
        if kind is not None and not (kind is SystemExit and cast(SystemExit, error).code in (None, 0)):
            interrupted = issubclass(kind, (KeyboardInterrupt, SystemExit))
            keys = {"status": "interrupted" if interrupted else "failed", "error": kind.__name__}
        if not self._closed and (self.rank == 0 or "error" in keys):
            self.event("run_end", self._step + 1 if self._step >= 0 else None, **keys)
        self.close()

    def _begin_step(self, step: int) -> int | None:
        """`step` as an int, now the newest step; None, with a warning, where no run can have such a step."""
        if type(step) is not int:
            try:
                step = operator.index(step)
            except TypeError:
                return self._warn_step(step)
        if step > self._step:
            if step > _LAST_STEP:
                return self._warn_step(step)
            self._step = step
        elif step < 0:
            return self._warn_step(step)
        if self._changes:
            self._rows.journal_changes(step)
        return step

    def _warn_step(self, step: object) -> None:
        self._warnings.add("step", f"a row of step {plain(step, 40)} is left out: steps are counted 0, 1, 2, …")
        self._warnings.report()

    def _transfer(self, tensors: dict[str, Tensor]) -> Transfer:
        self._background.poll()
        return Transfer(tensors)

    def _warn_closed(self) -> None:
        self._warnings.add("closed", "the recorder is closed; nothing more is written")
        self._warnings.report()

    def _disable_in_fork(self) -> None:
        """In a forked worker: do not write, and do not keep the lock when the parent dies."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._rows.abandon_lock()
