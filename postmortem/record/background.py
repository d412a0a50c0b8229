"""The background thread of a recorder: it encodes queued rows and writes them, and keeps them while a write fails.

    training thread ── entry ──▶ queue ──▶ (device values arrive) ──▶ lines ──▶ one write per file
                                                                        └─ a write fails: kept, and tried again

Nothing here raises because of the disk: a problem becomes a warning that the training thread reports.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from postmortem.errors import PostmortemError
from postmortem.record.transfer import Transfer
from postmortem.record.writer import RunWriter, Table, encode, event_row
from postmortem.text import plain

_POLL_S = 0.02  # while values are on their way from a device
_MOST_ENTRIES = 50_000  # queued while the run cannot be opened
_MOST_BYTES = 64 * 2**20  # of unwritten lines of one file
_TABLES: tuple[Table, ...] = ("metrics", "batches", "journal")


@dataclass(slots=True)
class QueuedEntry:
    """One row on its way to the disk. `rewinds` counts how often this process went back before the row; `arrays` are
    `WATCHED_ARRAYS` that are on the host."""

    table: Table
    rewinds: int
    step: int | None
    values: dict[str, Any]
    transfer: Transfer | None = None
    arrays: dict[str, NDArray[Any]] | None = None


@dataclass(slots=True)
class _Degradation:
    """Why rows are not written at present, since when (monotonic seconds), and how many are lost."""

    reason: str
    since: float
    lost: int = 0


@dataclass(slots=True)
class _UnwrittenLines:
    """Encoded rows of one file that are not written yet; the oldest are dropped when there are too many."""

    lines: deque[bytes] = field(default_factory=deque[bytes])
    size: int = 0

    def add(self, line: bytes) -> None:
        self.lines.append(line)
        self.size += len(line)

    def trim(self) -> int:
        """Drop the oldest lines beyond the limit; how many."""
        dropped = 0
        while self.size > _MOST_BYTES:
            self.size -= len(self.lines.popleft())
            dropped += 1
        return dropped

    def clear(self) -> None:
        self.lines.clear()
        self.size = 0


class BackgroundWriter:
    """Writes what is put into `queue`: every `interval_s` seconds, and at once when `write_now` is called."""

    def __init__(
        self,
        open_writer: Callable[[], RunWriter],
        finish: Callable[[QueuedEntry], dict[str, Any]],
        on_arrival: Callable[[QueuedEntry], None],
        slow_entries: Callable[[], Iterable[QueuedEntry]],
        interval_s: float,
        warnings: deque[PostmortemError | OSError | str],
    ) -> None:
        """`open_writer` opens the run (tried again while it raises), `finish` makes an entry's row, `on_arrival` gets
        the entries whose values came from a device, and `slow_entries` yields entries that take long to make, one at a
        time. Problems are appended to `warnings`.
        """
        self.queue: deque[QueuedEntry] = deque()
        self._warnings = warnings
        self.attempt: int | None = None
        self.polling = False
        self._open_writer, self._finish = open_writer, finish
        self._on_arrival, self._slow_entries = on_arrival, slow_entries
        self._interval_s = interval_s
        self._writer: RunWriter | None = None
        self._unwritten = {table: _UnwrittenLines() for table in _TABLES}
        self._degradation: _Degradation | None = None
        self._last_try = -float("inf")
        self._polled_until = 0.0
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._sync = self._stopping = False
        self._clock = time.time() - time.monotonic()
        self._thread = threading.Thread(target=self._run, name="postmortem-recorder", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why rows are kept in memory at present; None while they are written."""
        return None if self._degradation is None else self._degradation.reason

    def start(self) -> None:
        """Open the run, write what is queued, and start the thread."""
        self.write_now()
        self._thread.start()

    def poll(self) -> None:
        """Values are on their way from a device: check for them often."""
        if not self.polling:
            self.polling = True
            self._wake.set()

    def wake(self, *, sync: bool = False) -> None:
        """Let the thread write now; with `sync`, it also calls fsync."""
        self._sync = self._sync or sync
        self._wake.set()

    def write_now(self, *, wait: bool = False) -> None:
        """Write every entry whose values are on the host; with `wait`, wait for the device and write all."""
        try:
            with self._lock:
                arrived = self._encode_entries(wait)
                self._write_lines()
            for entry in arrived:
                self._on_arrival(entry)
        except Exception as error:  # noqa: BLE001 - a bug in the recorder must not reach the training
            self.report_fault(error)

    def write_slow_entries(self) -> None:
        """Write what takes long to encode, one row at a time, so that nobody waits for all of it."""
        try:
            for entry in self._slow_entries():
                self.queue.append(entry)
                self.write_now()
        except Exception as error:  # noqa: BLE001 - a bug in the recorder must not reach the training
            self.report_fault(error)

    def report_fault(self, error: Exception) -> None:
        """Warn about a bug in the recorder itself, which must neither end the thread nor reach the training."""
        self._warnings.append(f"{type(error).__name__} in the recorder: {plain(error)}")

    def stop(self) -> None:
        """End the thread, write everything, compact and close the files."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._last_try = -float("inf")
        self.write_now(wait=True)
        self.write_slow_entries()
        with self._lock:
            lost = len(self.queue) + sum(len(unwritten.lines) for unwritten in self._unwritten.values())
            if lost:
                self._warnings.append(f"{lost} rows could not be written and are lost: {self.failure}")
            if self._writer is not None:
                self._try_to(self._writer.close, "compaction")

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_POLL_S if self.polling else self._interval_s)
            self._wake.clear()
            self._check_clock()
            self.write_now()
            self.write_slow_entries()
            self._maintain()

    def _maintain(self) -> None:
        """Do what may wait until rows are on disk: fsync, compaction, and the end of polling."""
        with self._lock:
            if self._writer is not None:
                if self._sync:
                    self._sync = False
                    self._try_to(self._writer.sync, "fsync")
                if self._writer.outgrown:
                    self._try_to(self._writer.compact, "compaction")
            now = time.monotonic()
            if any(entry.transfer is not None for entry in list(self.queue)):
                self._polled_until = now + 10 * self._interval_s
            self.polling = now < self._polled_until

    def _try_to(self, maintain: Callable[[], object], name: str) -> None:
        try:
            maintain()
        except (OSError, PostmortemError) as error:
            self._warnings.append(f"{name} failed and the rows stay as they are: {plain(error)}")

    def _encode_entries(self, wait: bool) -> list[QueuedEntry]:
        """Turn entries whose values are on the host into lines; return those whose values came from a device."""
        writer = self._writer or self._try_to_open()
        if writer is None:
            while len(self.queue) > _MOST_ENTRIES:
                self.queue.popleft()
                self._count_lost(1)
            return []
        assert self.attempt is not None
        arrived: list[QueuedEntry] = []
        waiting: list[QueuedEntry] = []
        for _ in range(len(self.queue)):
            entry = self.queue.popleft()
            transfer = entry.transfer
            if transfer is not None and not (wait or transfer.ready):
                waiting.append(entry)
                continue
            if transfer is not None:
                self._polled_until = time.monotonic() + 10 * self._interval_s
                arrived.append(entry)
            try:
                row = self._finish(entry)
                if entry.table != "journal":
                    key = {"attempt": self.attempt + entry.rewinds, "step": entry.step, "rank": writer.rank}
                    row = {**key, **row, **key}  # first in the line, and no column of that name replaces it
                self._unwritten[entry.table].add(encode(row))
            except Exception as error:  # noqa: BLE001 - a value that cannot be encoded costs this row only
                self._count_lost(1)
                self._warnings.append(f"a row of step {entry.step} is lost: {type(error).__name__}: {plain(error)}")
        self.queue.extendleft(reversed(waiting))
        return arrived

    def _try_to_open(self) -> RunWriter | None:
        """The writer of the run; None where it cannot be opened, or was tried a moment ago."""
        now = time.monotonic()
        if now - self._last_try < self._interval_s:
            return None
        self._last_try = now
        try:
            self._writer = self._open_writer()
        except (OSError, PostmortemError) as error:
            self._note_failure(error)
            return None
        self.attempt = self._writer.attempt
        return self._writer

    def _write_lines(self) -> None:
        """Write all lines; once that works again, journal how long it did not."""
        if self._writer is None:
            return
        failed = False
        for table in _TABLES:
            unwritten = self._unwritten[table]
            if unwritten.lines:
                try:
                    self._writer.write(table, unwritten.lines)
                except OSError as error:
                    failed = True
                    self._note_failure(error)
                    self._count_lost(unwritten.trim())
                else:
                    unwritten.clear()
        past = self._degradation
        if past is None or failed:
            return
        keys = {"lost_rows": past.lost, "reason": past.reason, "seconds": time.monotonic() - past.since}
        try:
            self._writer.write("journal", [encode(event_row("recording_degraded", None, keys))])
        except OSError:
            return
        self._degradation = None

    def _note_failure(self, error: OSError | PostmortemError) -> None:
        """Note a failure; the warning comes when the failures begin, not at each try."""
        if self._degradation is None:
            self._degradation = _Degradation(plain(error, 1_000), time.monotonic())
            self._warnings.append(error)

    def _count_lost(self, rows: int) -> None:
        if rows:
            if self._degradation is None:
                self._degradation = _Degradation("rows that could not be encoded", time.monotonic())
            self._degradation.lost += rows

    def _check_clock(self) -> None:
        """Journal it when the wall clock was set back; intervals are measured by the monotonic clock."""
        offset = time.time() - time.monotonic()
        back, self._clock = self._clock - offset, offset
        if back > 1:
            row = event_row("clock_went_back", None, {"seconds": round(back, 3)})
            self.queue.append(QueuedEntry("journal", 0, None, row))
