"""What the background thread makes of queued rows: it opens the run, adds values from devices, and looks for incidents.

The training thread comes here only for what is rare: an incident, an event, a row that stands out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postmortem.errors import PostmortemError
from postmortem.record.alarms import Alarms
from postmortem.record.background import BackgroundWriter, QueuedEntry
from postmortem.record.cells import WATCHED_ARRAYS
from postmortem.record.input_warnings import InputWarnings
from postmortem.record.lock import WriterLock
from postmortem.record.segment import Changes, RunDetails, complete_manifest, name_device, open_segment
from postmortem.record.token_ids import TokenIds
from postmortem.record.writer import RunWriter, event_row, update_manifest
from postmortem.run.columns import describe
from postmortem.text import plain

if TYPE_CHECKING:
    from torch import Tensor

DENSE_STEPS = 50
"""Steps that are all sampled after something moved."""


class RowProcessor:
    """Turns the entries of `background.queue` into rows, and judges them.

    alarms: the live detectors. changes: events about what changed since the last attempt, not journaled yet.
    dense_until: every step before this one is worth sampling. finish_watched_row: set where a model is watched.
    facts: keys of run.json that became known since it was completed, not written yet.
    """

    def __init__(
        self, run: Path, facts: RunDetails, input_warnings: InputWarnings, token_ids: TokenIds, flush_interval_s: float
    ) -> None:
        self.alarms = Alarms(DENSE_STEPS)
        self.changes: Changes = []
        self.dense_steps, self.dense_until = DENSE_STEPS, -1
        self.finish_watched_row: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
        self.facts: dict[str, Any] = {}
        self._run, self._facts = run, facts
        self._warnings, self._token_ids = input_warnings, token_ids
        self._rewinds = 0
        self._device: str | None = None
        self._lock: WriterLock | None = None
        self.background = BackgroundWriter(
            self._open_run, self._finish, self._judge, self._token_id_entries, flush_interval_s, input_warnings.pending
        )

    def examine(self) -> None:
        """Let the detectors look at the rows that came since the last call, and journal the incidents that begin."""
        try:
            alarming_rows = self.alarms.look()
        except Exception as error:  # noqa: BLE001 - a bug in a detector must not reach the training
            self.background.report_fault(error)
            return
        for step, row, alarms in alarming_rows:
            nonfinite = [alarm.column for alarm in alarms if alarm.detector == "non_finite"]
            if any(describe(name) is not None for name in nonfinite):
                self.incident(step, "nonfinite", {"columns": nonfinite})
            elif nonfinite:  # a column of the user's own, such as a score that is undefined: no incident, but write it
                self.background.write_now()
            for alarm in alarms:
                if alarm.detector != "non_finite":
                    self.incident(step, alarm.column, {"value": row[alarm.column]})

    def incident(self, step: int, kind: str, keys: Mapping[str, Any]) -> None:
        """Journal an incident, have the token ids around it written, and the next steps sampled closely."""
        self.dense_until = step + self.dense_steps
        reused = self._token_ids.incident(step)
        if reused:
            lost = {"batches": reused, "reason": "their buffers were used again"}
            self.background.queue.append(QueuedEntry("journal", 0, None, event_row("token_ids_lost", step, lost)))
        self.journal("incident", step, {"kind": kind, **keys})
        self.background.wake(sync=True)

    def journal(self, event: str, step: int | None, keys: Mapping[str, Any]) -> None:
        """Write one event now; ranks other than 0 are named in it."""
        row = event_row(event, step, {**self._rank_key(), **keys})
        self.background.queue.append(QueuedEntry("journal", self._rewinds, step, row))
        self.background.write_now()

    def journal_changes(self, step: int | None) -> None:
        """Queue the events about what changed since the last attempt; `step` is the first step of this one."""
        changes = self.changes.copy()
        self.changes.clear()
        for event, keys in changes:
            self.background.queue.append(QueuedEntry("journal", 0, step, event_row(event, step, keys)))

    def rewind(self, step: int, rewinds: int) -> None:
        """The run continues from `step` again, as the attempt after `rewinds` returns of this process."""
        self._rewinds = rewinds
        self.dense_until = min(self.dense_until, step + self.dense_steps)
        self._token_ids.rewind(step)
        self.alarms.rewind(step)

    def release(self) -> None:
        """Release the run for other writers."""
        if self._lock is not None:
            self._lock.release()

    def abandon_lock(self) -> None:
        """In a forked process: leave the lock to the parent."""
        if self._lock is not None:
            self._lock.abandon()

    def _open_run(self) -> RunWriter:
        """Take the directory and complete run.json. Raises OSError or PostmortemError where it cannot be written."""
        self._lock, writer = open_segment(self._run, self._facts)
        if self._facts.rank == 0:
            row = event_row("reopen" if writer.attempt else "run_start", None, {"attempt": writer.attempt})
            self.background.queue.appendleft(QueuedEntry("journal", 0, None, row))
        try:
            self.changes[:] = complete_manifest(self._run, self._facts, writer.attempt)
        except Exception as error:  # noqa: BLE001 - of any configuration: rows are worth more than run.json
            self._warn_manifest(error)
        return writer

    def _finish(self, entry: QueuedEntry) -> dict[str, Any]:
        """The row of an entry; waits where its values are not on the host yet."""
        row = entry.values
        transfer = entry.transfer
        if transfer is not None:
            self._record_device(transfer.device)
            if entry.table == "batches":
                ids = transfer.values()["ids"].numpy()
                row["batch_hash"] = self._token_ids.keep(entry.rewinds, entry.step or 0, ids)
            else:
                row |= {name: _on_host(name, value) for name, value in transfer.values().items()}
        if self.finish_watched_row is not None and entry.table == "metrics":
            entry.values = row = self.finish_watched_row({**row, **entry.arrays} if entry.arrays else row)
            entry.arrays = None
            names = row.pop("nonfinite_parameters", None)
            if names and entry.step is not None and self.alarms.begins(entry.step, "nonfinite parameters"):
                event = event_row("nonfinite_parameters", entry.step, {"names": names, **self._rank_key()})
                self.background.queue.append(QueuedEntry("journal", entry.rewinds, entry.step, event))
        return row

    def _judge(self, entry: QueuedEntry) -> None:
        """Do for values that came from a device what `Recorder.log` does at once for those on the host."""
        if entry.table != "metrics" or entry.step is None:
            return
        row = entry.values
        nonfinite = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        if self.alarms.add_row(entry.step, row, nonfinite):
            self.examine()

    def _token_id_entries(self) -> Iterator[QueuedEntry]:
        """Rows with token ids, one at a time, after the detectors looked: called where nobody waits."""
        self._write_facts()
        self.examine()
        self._token_ids.trim()
        for batch, row in self._token_ids.rows():
            yield QueuedEntry("batches", batch.rewinds, batch.step, row)
        failure = self._token_ids.decode_failure
        if failure is not None:
            self._warnings.add("decode", f"decode failed: {type(failure).__name__}: {plain(failure)}")

    def _record_device(self, device: str) -> None:
        if self._device is None:
            self._device = device
            try:
                name_device(self._run, self._facts.rank, device)
            except (OSError, PostmortemError) as error:
                self._warn_manifest(error)

    def _write_facts(self) -> None:
        """Add `facts` to run.json; what it says already stays."""
        if not self.facts or self.background.attempt is None:
            return
        facts, self.facts = self.facts, {}
        if self._facts.rank == 0:
            try:
                update_manifest(self._run, lambda old: {**old, **{k: v for k, v in facts.items() if k not in old}})
            except (OSError, PostmortemError) as error:
                self._warn_manifest(error)

    def _warn_manifest(self, error: Exception) -> None:
        self._warnings.pending.append(f"run.json is not completed: {plain(error, 1000)}")

    def _rank_key(self) -> dict[str, int]:
        """The key that distinguishes events of several ranks; rank 0 has none."""
        return {"rank": self._facts.rank} if self._facts.rank else {}


def _on_host(name: str, value: Tensor) -> Any:
    """What a tensor that arrived from a device is in its row."""
    if name in WATCHED_ARRAYS:
        return value.numpy()
    return value.item() if value.numel() == 1 else value.tolist()
