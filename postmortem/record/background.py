"""The one background thread of a recorder, and the one lock under which anything of it is written.

    training thread ── Entry ──▶ queue ──▶ (device values arrive) ──▶ lines ──▶ one write per file
                                                                        └─ a write fails: held, and tried again

Nothing here raises on account of the disk: trouble is kept as a sentence for the training thread to say.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from postmortem.errors import PostmortemError
from postmortem.record.transfer import Transfer
from postmortem.record.writer import RunWriter, Table, encode, event_row
from postmortem.text import plain

_POLL_S = 0.02  # while values are on their way from a device
_HELD_ENTRIES = 50_000
_HELD_BYTES = 64 * 2**20
_TABLES: tuple[Table, ...] = ("metrics", "batches", "journal")


@dataclass(slots=True)
class QueuedEntry:
    """One row on its way to the disk. `later` counts how often this process went back before it."""

    table: Table
    later: int
    step: int | None
    values: dict[str, Any]
    transfer: Transfer | None = None


@dataclass(slots=True)
class _Trouble:
    reason: str
    since: float
    lost: int = 0


@dataclass(slots=True)
class _Lines:
    """Encoded rows of one file that are not written yet; the oldest go when they are too many."""

    lines: deque[bytes] = field(default_factory=deque[bytes])
    size: int = 0

    def add(self, line: bytes) -> None:
        self.lines.append(line)
        self.size += len(line)

    def trim(self) -> int:
        dropped = 0
        while self.size > _HELD_BYTES:
            self.size -= len(self.lines.popleft())
            dropped += 1
        return dropped

    def clear(self) -> None:
        self.lines.clear()
        self.size = 0


class Background:
    """Writes what is put into `queue`, every `interval_s` and at once when asked to."""

    def __init__(
        self,
        open_writer: Callable[[], RunWriter],
        finish: Callable[[QueuedEntry], dict[str, Any]],
        arrived: Callable[[QueuedEntry], None],
        slow: Callable[[], Iterable[QueuedEntry]],
        interval_s: float,
        unsaid: deque[PostmortemError | OSError | str],
    ) -> None:
        """`open_writer` opens the run (tried again while it raises), `finish` makes an entry's row, `arrived` is told
        of rows whose values came from a device, and `slow` yields entries that take long to make, one at a time.
        Trouble is put into `unsaid`.
        """
        self.queue: deque[QueuedEntry] = deque()
        self._unsaid = unsaid
        self.attempt: int | None = None
        self.polling = False
        self._open_writer, self._finish, self._arrived, self._slow = open_writer, finish, arrived, slow
        self._interval_s = interval_s
        self._writer: RunWriter | None = None
        self._unsaved = {table: _Lines() for table in _TABLES}
        self._trouble: _Trouble | None = None
        self._opened_last = -float("inf")
        self._rows = 0
        self._polled_until = 0.0
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._sync = self._stopping = False
        self._clock = time.time() - time.monotonic()
        self._thread = threading.Thread(target=self._run, name="postmortem-recorder", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why rows are held in memory at present; None while all is well."""
        return None if self._trouble is None else self._trouble.reason

    def start(self) -> None:
        """Open the run, write what there is, start the thread."""
        self.write_now()
        self._thread.start()

    def poll(self) -> None:
        """Values are on their way from a device: look for them often."""
        if not self.polling:
            self.polling = True
            self._wake.set()

    def hurry(self, *, sync: bool = False) -> None:
        """Wake the thread; with `sync`, have it fsync what is written."""
        self._sync = self._sync or sync
        self._wake.set()

    def write_now(self, *, wait: bool = False) -> None:
        """Write every entry whose values are on the host; with `wait`, wait for the device and write all."""
        try:
            with self._lock:
                arrived = self._collect(wait)
                self._save()
            for entry in arrived:
                self._arrived(entry)
        except Exception as error:
            self.at_fault(error)

    def write_slow(self) -> None:
        """Write what takes long to encode, a row at a time, so that nobody waits for all of it."""
        try:
            for entry in self._slow():
                self.queue.append(entry)
                self.write_now()
        except Exception as error:
            self.at_fault(error)

    def at_fault(self, error: Exception) -> None:
        """A fault of our own must neither end the thread nor reach the training."""
        self._unsaid.append(f"{type(error).__name__} in the recorder: {plain(error)}")

    def stop(self) -> None:
        """End the thread, write everything, compact and close the files."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._opened_last = -float("inf")
        self.write_now(wait=True)
        self.write_slow()
        with self._lock:
            left = len(self.queue) + sum(len(held.lines) for held in self._unsaved.values())
            if left:
                self._unsaid.append(f"{left} rows could not be written and are lost: {self.failure}")
            if self._writer is not None:
                self._attempt_to(self._writer.close, "compaction")

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_POLL_S if self.polling else self._interval_s)
            self._wake.clear()
            self._check_clock()
            self.write_now()
            self.write_slow()
            self._settle()

    def _settle(self) -> None:
        """What may wait until rows are on disk: fsync, compaction, and an end of polling."""
        with self._lock:
            if self._writer is not None:
                if self._sync:
                    self._sync = False
                    self._attempt_to(self._writer.sync, "fsync")
                if self._writer.outgrown:
                    self._attempt_to(self._writer.compact, "compaction")
            now = time.monotonic()
            if any(entry.transfer is not None for entry in list(self.queue)):
                self._polled_until = now + 10 * self._interval_s
            self.polling = now < self._polled_until

    def _attempt_to(self, do: Callable[[], object], what: str) -> None:
        try:
            do()
        except (OSError, PostmortemError) as error:
            self._unsaid.append(f"{what} failed and the rows stay as they are: {plain(error)}")

    def _collect(self, wait: bool) -> list[QueuedEntry]:
        """Turn entries whose values are here into lines. Those whose values came from a device are returned."""
        writer = self._writer or self._opened()
        if writer is None:
            while len(self.queue) > _HELD_ENTRIES:
                self.queue.popleft()
                self._lost()
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
                    place = {"attempt": self.attempt + entry.later, "step": entry.step, "rank": writer.rank}
                    row = {**place, **row, **place}  # first in the line, and not to be moved by a column of that name
                self._unsaved[entry.table].add(encode(row))
            except Exception as error:  # a value of which no row can be made costs this row only
                self._lost()
                self._unsaid.append(f"a row of step {entry.step} is lost: {type(error).__name__}: {plain(error)}")
        self.queue.extendleft(reversed(waiting))
        return arrived

    def _opened(self) -> RunWriter | None:
        now = time.monotonic()
        if now - self._opened_last < self._interval_s:
            return None
        self._opened_last = now
        try:
            self._writer = self._open_writer()
        except (OSError, PostmortemError) as error:
            self._failed(error)
            return None
        self.attempt = self._writer.attempt
        return self._writer

    def _save(self) -> None:
        if self._writer is None:
            return
        failed = False
        for table in _TABLES:
            held = self._unsaved[table]
            if held.lines:
                try:
                    self._writer.write(table, held.lines)
                except OSError as error:
                    failed = True
                    self._failed(error)
                    self._lost(held.trim())
                else:
                    held.clear()
        trouble = self._trouble
        if trouble is None or failed:
            return
        keys = {"lost_rows": trouble.lost, "reason": trouble.reason, "seconds": time.monotonic() - trouble.since}
        try:
            self._writer.write("journal", [encode(event_row("recording_degraded", None, keys))])
        except OSError:
            return
        self._trouble = None

    def _failed(self, error: OSError | PostmortemError) -> None:
        """Take note of a failure; it is said when the trouble begins, not at each try."""
        if self._trouble is None:
            self._trouble = _Trouble(plain(error, 1_000), time.monotonic())
            self._unsaid.append(error)

    def _lost(self, rows: int = 1) -> None:
        if rows:
            if self._trouble is None:
                self._trouble = _Trouble("rows that could not be encoded", time.monotonic())
            self._trouble.lost += rows

    def _check_clock(self) -> None:
        """Journal a wall clock that was set back; intervals are measured by another one."""
        offset = time.time() - time.monotonic()
        back, self._clock = self._clock - offset, offset
        if back > 1:
            keys = event_row("clock_went_back", None, {"seconds": round(back, 3)})
            self.queue.append(QueuedEntry("journal", 0, None, keys))
