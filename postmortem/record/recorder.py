"""The recorder: what a training loop hands over at each step, taken down in microseconds.

    with Recorder("runs/exp7", config=config) as rec:
        for step, batch in enumerate(loader):
            rec.batch(step, batch)
            …
            rec.log(step, loss=loss, grad_norm=norm, lr=lr)

The training thread looks at each value once and appends to a queue. A background thread waits for devices, encodes and
writes (`background`). Only what must be on disk before a crash is written at once: the first row of a non-finite
episode, incidents, and events. What needs many rows to be seen (`alarms`) is looked for in the background.
"""

from __future__ import annotations

import atexit
import math
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from postmortem.errors import PostmortemError, UsageError
from postmortem.record.alarms import Alarms
from postmortem.record.background import Background, QueuedEntry
from postmortem.record.cells import Cells, plain_numbers
from postmortem.record.input_warnings import InputWarnings
from postmortem.record.lock import WriterLock, after_fork
from postmortem.record.ring import TokenIds, Which, ids_of
from postmortem.record.segment import Changes, Facts, complete_manifest, name_device, open_segment, ranks_of_process
from postmortem.record.transfer import Transfer
from postmortem.record.writer import RunWriter, event_row
from postmortem.run.columns import describe
from postmortem.text import plain

if TYPE_CHECKING:
    from torch import Tensor
    from torch.amp import GradScaler
    from torch.nn import Module
    from torch.optim import Optimizer

    from postmortem.record.watch import Watch

_DENSE_STEPS = 50
_LAST_STEP = 2**53  # beyond it steps are not told apart as floats
_REWINDS = {"resume": "from_step", "rollback": "to_step"}


class Recorder:
    """Records one rank of one training into a run directory. A context manager; safe to call from several threads.

    Reopening a directory goes on as its next attempt. `failure` says why rows are held in memory at present, if they
    are; `attempt` is the number of the attempt, counted from 0.

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
        token_ids: Which = "incidents",
        decode: Callable[[list[int]], str] | None = None,
        provenance: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        """Open `path`, or go on with it.

        Args:
            path: the run directory; made where it is absent.
            config: the effective configuration; a change against run.json is journalled when a run goes on.
            manifest: further keys of run.json (`seed`, `dtype`, `program`, `vocab`, …).
            rank: of this process; torch.distributed's, or RANK's, where it is not given. `world_size` likewise.
            attempt: where something else counts attempts.
            flush_interval_s: a killed process loses at most the rows of this many seconds.
            token_ids: which batches' ids are written: those around an incident, all, or none.
            decode: ids of one sample → text, called in the background thread for batches whose ids are written.
            provenance: record command line, commit and patch, packages, variables and host, secrets taken out.
            on_error: what follows when the directory cannot be opened or written: one warning, and the rows are held
                and tried again; or a RecordingError from the next call.

        Raises:
            UsageError: an argument that cannot be meant.
            RecordingError: with `on_error="raise"`, where the directory cannot be opened.
        """
        if not flush_interval_s > 0:
            raise UsageError(f"flush_interval_s is {flush_interval_s}; it must be positive")
        if token_ids not in ("incidents", "always", "never"):
            raise UsageError(f'token_ids is {token_ids!r}; choose "incidents", "always" or "never"')
        if on_error not in ("warn", "raise"):
            raise UsageError(f'on_error is {on_error!r}; choose "warn" or "raise"')
        own_rank, own_size = ranks_of_process()
        self.path = Path(path)
        self.rank = own_rank if rank is None else rank
        self.world_size = max(own_size, self.rank + 1) if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank {self.rank} is none of a world of {self.world_size}")
        self._facts = Facts(self.rank, self.world_size, attempt, config, manifest, provenance)
        self._complaints = InputWarnings(self.path, raises=on_error == "raise")
        self._attached: dict[str, Any] = {}
        self._changes: Changes = []
        self._alarms = Alarms(_DENSE_STEPS)
        self._dense_steps = _DENSE_STEPS
        self._dense_until = -1
        self._ids = TokenIds(token_ids, decode)
        self._step = -1
        self._later = 0
        self._logged: int | None = None
        self._settle: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None  # where there is a watch
        self._cells = Cells(self._complaints)
        self._device: str | None = None
        self._closed = False
        self._lock: WriterLock | None = None
        self._unsaid = self._complaints.unsaid
        self._background = Background(
            self._open, self._finished, self._arrived, self._ids_to_write, flush_interval_s, self._unsaid
        )
        self._queue = self._background.queue
        self._background.start()
        atexit.register(self.close)
        after_fork(self._left_to_parent)
        try:
            self._complaints.speak()
        except BaseException:
            self._closed = True
            atexit.unregister(self.close)
            self._background.stop()
            raise

    @property
    def attempt(self) -> int:
        """Number of the attempt that rows are written under."""
        return (self._background.attempt or 0) + self._later

    @property
    def failure(self) -> str | None:
        """Why rows are held in memory instead of written; None while all is well."""
        return self._background.failure

    @property
    def logged(self) -> int | None:
        """Step of the row that was logged last; None before the first."""
        return self._logged

    @property
    def moving(self) -> bool:
        """Whether something moved lately, so that every step is worth sampling."""
        return self._step < self._dense_until

    def log(self, step: int, metrics: Mapping[str, Any] | None = None, /, **columns: Any) -> None:
        """Take down one row of metrics; rows of the same step become one.

        `metrics` and `columns` map column names (docs/run-format.md lists the canonical ones) to numbers, numpy
        scalars, tensors of one element on any device, short lists, or None where nothing was measured. A tensor on a
        device is copied asynchronously. A row known to hold NaN or infinity is on disk when this returns, if it is the
        first of its kind for a while.
        """
        if self._closed:
            return self._is_closed()
        if metrics is not None:
            columns = {**metrics, **columns}
        if self._attached:
            attached, self._attached = self._attached, {}
            columns = {**attached, **columns}
        row, device, odd = columns, None, None
        if self._cells.tensor is not None or not plain_numbers(columns):
            row, device, odd = self._cells.read(columns)
        if "time" not in row:
            row["time"] = time.time()
        known = self._begin(step)
        if known is None:
            return
        self._logged = step = known
        transfer = None if device is None else self._transfer(device)
        if transfer is None or odd is not None:
            self._queue.append(QueuedEntry("metrics", self._later, step, row))
        if transfer is not None:
            self._queue.append(QueuedEntry("metrics", self._later, step, dict(row), transfer))
        if self._alarms.take(step, row, odd):
            self._look()
        if self._unsaid:
            self._complaints.speak()

    def batch(self, step: int, batch: object = None, *, index: int | None = None, **facts: Any) -> None:
        """Take down what is known of the batch of `step`: the hash of its token ids, its index, and further `facts`.

        `batch` is int[samples, positions] or of any other shape: a tensor, an array or nested lists of token ids, a
        mapping with `input_ids`, `tokens`, `ids` or `x`, or a tuple that begins with one of these. `index` is its
        absolute place in the data order. `facts` are columns such as `source`, `sample_ids` or `valid_labels`. Ids on
        a device are copied asynchronously and hashed in the background.
        """
        if self._closed:
            return self._is_closed()
        known = self._begin(step)
        if known is None:
            return
        step = known
        row = {name: value for name, value in facts.items() if value is not None} if facts else facts
        if index is not None:
            row["batch_index"] = index
        transfer = None
        if batch is not None:
            try:
                ids = ids_of(batch)
                if isinstance(ids, np.ndarray):
                    row["batch_hash"] = self._ids.keep(self._later, step, ids)
                else:
                    transfer = self._transfer({"ids": ids})
            except UsageError as error:
                self._complaints.add("batch", error)
        self._queue.append(QueuedEntry("batches", self._later, step, row, transfer))
        if self._unsaid:
            self._complaints.speak()

    def attach(self, values: Mapping[str, Any]) -> None:
        """Columns for the row that the next `log` writes, in the values that `log` takes."""
        self._attached.update(values)

    def event(self, event: str, step: int | None = None, **keys: Any) -> None:
        """Append one event to the journal; it is on disk when this returns.

        A `resume` or `rollback` to a step that this process has already logged begins a new attempt.
        """
        if self._closed:
            return self._is_closed()
        target = keys.get(_REWINDS.get(event, ""))
        if isinstance(target, (int, np.integer)) and target <= self._step:
            target = int(target)
            self._later += 1
            self._step = target - 1
            self._dense_until = min(self._dense_until, target + self._dense_steps)
            self._ids.rewound(target)
            self._alarms.rewound(target)
            keys.setdefault("attempt", self.attempt)
        self._journal(event, step, keys)
        self._complaints.speak()

    def resumed(self, step: int, checkpoint: str | os.PathLike[str] | None = None, **keys: Any) -> None:
        """Journal that training goes on from `checkpoint`; `step` is the first step that is done anew."""
        if checkpoint is not None:
            target, base = Path(checkpoint).resolve(), self.path.resolve()
            within = target.is_relative_to(base)
            keys = {"checkpoint": target.relative_to(base).as_posix() if within else str(checkpoint), **keys}
        self.event("resume", step, from_step=step, **keys)

    def incident(self, step: int, kind: str, **keys: Any) -> None:
        """Journal that something happened at `step`; keep the token ids around it, and have it watched closely."""
        if self._closed:
            return self._is_closed()
        self._incident(step, kind, keys)
        self._complaints.speak()

    def watch(
        self,
        model: Module,
        optimizer: Optimizer | None = None,
        *,
        norms_every: int = 10,
        layers_every: int = 50,
        hash_every: int = 100,
        dense_steps: int = _DENSE_STEPS,
        scaler: GradScaler | None = None,
    ) -> Watch:
        """Sample norms, activations and moments of `model` and `optimizer`; see `postmortem.record.watch.Watch`.

        `dense_steps` is the number of steps that are sampled without a gap once something moves. Call `log` once per
        update, after `optimizer.step()`.
        """
        from postmortem.record.watch import Watch, settle

        if self._settle is not None:
            self._complaints.add("watch", "a second watch writes the columns of the first: record them apart")
        self._dense_steps, self._settle = dense_steps, settle
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
        """Group → hash of what this rank holds of named parameters, see `record.hashing.local_state_hash`."""
        from postmortem.record.hashing import local_state_hash

        return local_state_hash(tensors)

    def flush(self) -> None:
        """Write everything that was handed over; waits for values on their way from a device."""
        if not self._closed:
            self._background.write_now(wait=True)
            self._background.write_slow()
            self._complaints.speak()

    def close(self) -> None:
        """Write everything, turn the live tails into Parquet and release the directory. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._changes:
            self._tell_changes(None)
        self._background.stop()
        if self._lock is not None:
            self._lock.release()
        self._complaints.speak()

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

    def _begin(self, step: int) -> int | None:
        """`step` as an int; None, and a complaint, where it is none that a run can have."""
        if type(step) is not int:
            try:
                step = operator.index(step)
            except TypeError:
                return self._refuse(step)
        if step > self._step:
            if step > _LAST_STEP:
                return self._refuse(step)
            self._step = step
        elif step < 0:
            return self._refuse(step)
        if self._changes:
            self._tell_changes(step)
        return step

    def _refuse(self, step: object) -> None:
        self._complaints.add("step", f"a row of step {plain(step, 40)} is left out: steps are counted 0, 1, 2, …")
        self._complaints.speak()

    def _transfer(self, tensors: dict[str, Tensor]) -> Transfer:
        self._background.poll()
        return Transfer(tensors)

    def _look(self) -> None:
        """Look at the rows that came, and journal what begins with them."""
        try:
            looked = self._alarms.look()
        except Exception as error:
            return self._background.at_fault(error)
        for step, row, alarms in looked:
            odd = [alarm.column for alarm in alarms if alarm.detector == "non_finite"]
            if any(describe(name) is not None for name in odd):
                self._incident(step, "nonfinite", {"columns": odd})
            elif odd:  # a column of the user's own, such as a score of nothing: written at once, no incident
                self._background.write_now()
            for alarm in alarms:
                if alarm.detector != "non_finite":
                    self._incident(step, alarm.column, {"value": row[alarm.column]})

    def _incident(self, step: int, kind: str, keys: dict[str, Any]) -> None:
        self._dense_until = step + self._dense_steps
        reused = self._ids.incident(step)
        if reused:
            lost = {"batches": reused, "reason": "their buffers were used again"}
            self._queue.append(QueuedEntry("journal", 0, None, event_row("token_ids_lost", step, lost)))
        self._journal("incident", step, {"kind": kind, **keys})
        self._background.hurry(sync=True)

    def _journal(self, event: str, step: int | None, keys: dict[str, Any]) -> None:
        keys = {**self._origin(), **keys}
        self._queue.append(QueuedEntry("journal", self._later, step, event_row(event, step, keys)))
        self._background.write_now()

    def _origin(self) -> dict[str, int]:
        """What tells events of several ranks apart."""
        return {"rank": self.rank} if self.rank else {}

    def _ids_to_write(self) -> Iterator[QueuedEntry]:
        """Rows with token ids, one at a time: called where nobody waits."""
        self._look()
        self._ids.trim()
        for kept, row in self._ids.rows():
            yield QueuedEntry("batches", kept.later, kept.step, row)
        failure = self._ids.decode_failure
        if failure is not None:
            self._complaints.add("decode", f"decode failed: {type(failure).__name__}: {plain(failure)}")

    def _finished(self, entry: QueuedEntry) -> dict[str, Any]:
        """The row of an entry whose values are on the host, in the background."""
        row = entry.values
        transfer = entry.transfer
        if transfer is not None:
            self._know_device(transfer.device)
            if entry.table == "batches":
                ids = transfer.values()["ids"].numpy()
                row["batch_hash"] = self._ids.keep(entry.later, entry.step or 0, ids)
            else:
                row |= {
                    name: value.item() if value.numel() == 1 else value.tolist()
                    for name, value in transfer.values().items()
                }
        if self._settle is not None and entry.table == "metrics":
            entry.values = row = self._settle(row)
            names = row.pop("nonfinite_parameters", None)
            if names and entry.step is not None and self._alarms.begins(entry.step, "nonfinite parameters"):
                told = event_row("nonfinite_parameters", entry.step, {"names": names, **self._origin()})
                self._queue.append(QueuedEntry("journal", entry.later, entry.step, told))
        return row

    def _arrived(self, entry: QueuedEntry) -> None:
        """Values came from a device: the judgement that `log` could not make."""
        if entry.table != "metrics" or entry.step is None:
            return
        row = entry.values
        odd = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        if self._alarms.take(entry.step, row, odd):
            self._look()

    def _open(self) -> RunWriter:
        """Take the directory and complete run.json. Raises OSError or PostmortemError where there is no writing."""
        self._lock, writer = open_segment(self.path, self._facts)
        if self.rank == 0:
            start = "reopen" if writer.attempt else "run_start"
            self._queue.appendleft(QueuedEntry("journal", 0, None, event_row(start, None, {"attempt": writer.attempt})))
        try:
            self._changes = complete_manifest(self.path, self._facts, writer.attempt)
        except Exception as error:  # of a configuration that cannot be told, too: rows are worth more than run.json
            self._unsaid.append(f"run.json is not completed: {plain(error, 1000)}")
        return writer

    def _know_device(self, device: str) -> None:
        if self._device is None:
            self._device = device
            try:
                name_device(self.path, self.rank, device)
            except (OSError, PostmortemError) as error:
                self._unsaid.append(f"run.json is not completed: {plain(error, 1000)}")

    def _tell_changes(self, step: int | None) -> None:
        changes, self._changes = self._changes, []
        for event, keys in changes:
            self._queue.append(QueuedEntry("journal", 0, step, event_row(event, step, keys)))

    def _is_closed(self) -> None:
        self._complaints.add("closed", "the recorder is closed; nothing more is written")
        self._complaints.speak()

    def _left_to_parent(self) -> None:
        """In a forked worker: neither write, nor keep the lock when the parent dies."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            if self._lock is not None:
                self._lock.abandon()
