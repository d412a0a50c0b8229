"""Saving by cadence without holding up training, and going back to what was saved."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from postmortem.checkpoint._journal import CheckpointWarning, Journal
from postmortem.checkpoint._saving_lock import SavingLock
from postmortem.checkpoint.load import read_state
from postmortem.checkpoint.policy import Policy
from postmortem.checkpoint.ranks import Ranks
from postmortem.checkpoint.resume import (
    Resumed,
    absent,
    changes,
    choose,
    hold_model,
    hold_optimizers,
    listed,
    settings,
    unsound,
)
from postmortem.checkpoint.retention import CheckpointFolders, StoredCheckpoint, read_stored, step_name
from postmortem.checkpoint.staging import SHARED, Staged, stage
from postmortem.checkpoint.state import Stateful, TrainState
from postmortem.checkpoint.writing import Job, write
from postmortem.errors import UnreadableInput, UsageError
from postmortem.run.manifest import inside
from postmortem.text import plain, relative_path

__all__ = ["Checkpointer", "Resumed", "Stateful"]

_RESET = "restoring such a checkpoint resets the optimizer"


class Checkpointer:
    """Saves `state` into a run by the three cadences of `policy`, and resumes from what was saved.

    journal: the run's `Recorder`, or whatever else keeps its journal. state: a `TrainState`, a
    `postmortem.program.Program`, or any object whose `state_dict()` is a nested mapping of sections.
    asynchronous: the training thread only copies the state; one background thread writes it, one save at a time.

    A save that fails is journalled as `checkpoint_failed` and warned about at the next call; training goes on. With
    torch.distributed initialised, all ranks construct theirs and make every call together, and see one file system.

    Usage:
        with Checkpointer(recorder, TrainState(model, optimizer, scheduler)) as saves:
            resumed = saves.resume()
            for step in range(resumed.step if resumed else 0, steps):
                …
                saves.maybe_save(step + 1)
    """

    def __init__(
        self,
        journal: Journal,
        state: Stateful,
        policy: Policy | None = None,
        *,
        asynchronous: bool = True,
    ) -> None:
        self._journal, self._state = journal, state
        self.policy = Policy() if policy is None else policy
        self._ranks = Ranks()
        self._shelf = CheckpointFolders(journal.path)
        self._claim: SavingLock | None = None
        self._ranks.first_says(self._make_claim)
        self._thread = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._pending: Future[None] | None = None
        self._troubles: list[str] = []
        self._token = self._ranks.first_says(lambda: str(os.getpid()))
        self._ranks.first_says(self._shelf.sweep)
        self._saved = self._ranks.first_says(self._alive)
        if self.policy.rollback_every and self.policy.rollback_contents == "parameters" and self._ranks.first:
            _warn(f"rollback checkpoints hold parameters only: {_RESET}", UserWarning)

    def maybe_save(self, step: int) -> list[Path]:
        """Save what is due after `step` updates; the directories, which are there once `wait` returns. Roles that are
        due together share one write. A step that is saved already, and was not gone back behind since, is left."""
        self._tell()
        due = [role for role in self.policy.due(step) if (role, step) not in self._saved]
        if not due:
            return []
        paths = tuple(self._place(role, step_name(step)) for role in due)
        return self._save(step, paths)

    def save(self, step: int, role: str) -> Path:
        """Save a rollback or recovery checkpoint now, whatever the cadence. See `maybe_save`.

        Raises:
            UsageError: another role, or a state that no checkpoint can hold.
        """
        if role not in ("rollback", "recovery"):
            raise UsageError(f"role {plain(role, 40)!r}: expected rollback or recovery; best() saves by a metric")
        self._tell()
        path = self._place(role, step_name(step))
        return path if (role, step) in self._saved else self._save(step, (path,))[0]

    def best(self, step: int, value: float) -> Path | None:
        """Save the parameters if `value` of the policy's metric is among the best K; where, or None. Of two equal
        values the earlier is the better."""
        self.wait()
        if not self.policy.best_k:
            return None
        value = float(value)
        if not math.isfinite(value):
            if self._ranks.first:
                self._note("best_k_refused", step, metric=self.policy.best_k_metric, value=value)
            return None
        if not self._ranks.first_says(lambda: self._among_best(value)):
            return None
        path = self._place("best-k", self.policy.best_name(step, value))
        return self._save(step, (path,), value)[0]

    def resume(
        self,
        path: str | Path | None = None,
        *,
        parts: Sequence[str] | None = None,
        optional: Sequence[str] = (),
        verify: bool = True,
    ) -> Resumed | None:
        """Take over the newest sound full checkpoint of the run's effective history, or the one in `path`; None where
        the run has none. `parts` ("model", "optimizer.step") leaves out the rest on purpose; a checkpoint may lack the
        `optional` ones without a word. Checkpoints of later steps are set aside: the run takes another way from here.

        Raises:
            UnreadableInput: every checkpoint is damaged, or the one in `path` is.
            UsageError: the checkpoint's model or optimizer is another one, or a part is not in it.
        """
        self.wait()
        entry = self._ranks.first_says(lambda: self._choose(path, verify))
        if entry is None:
            return None
        asked = self._state.state_dict()
        asked_settings = settings(asked)
        loaded: dict[str, Any] = {}

        def read() -> None:
            loaded.update(read_state(entry.path, rank=self._ranks.rank, parts=parts, like=asked))
            if "model" in (loaded if parts is None else parts):
                hold_model(entry.path, asked, loaded)
            hold_optimizers(entry.path, asked, loaded)

        self._ranks.together(read)
        self._state.load_state_dict(loaded)
        resumed = Resumed(
            step=entry.step,
            path=entry.path,
            role=entry.role,
            contents=entry.manifest.contents,
            restored=tuple(loaded if parts is None else parts),
            missing=tuple(piece for piece in absent(asked, loaded) if piece not in optional),
            unused=tuple(name for name in loaded if name not in asked),
            changed=changes(asked_settings, settings(self._state.state_dict())),
            saved_world_size=entry.manifest.world_size,
            world_size=self._ranks.world,
        )
        self._ranks.first_says(lambda: self._tell_resume(resumed, on_purpose=parts is not None))
        self._saved = self._ranks.first_says(self._alive)
        self._tell()
        return resumed

    def delete(self, path: str | Path) -> None:
        """Remove a checkpoint of this run now; `latest` leads elsewhere first.

        Raises:
            UnreadableInput: there is no complete checkpoint, or it lies outside the run.
        """
        self.wait()

        def delete() -> None:
            found = inside(self._journal.path, str(self._find(path)), plain(self._journal.path, 1000))
            self._delete(read_stored(found))

        self._ranks.first_says(delete)
        self._saved = self._ranks.first_says(self._alive)

    def wait(self) -> None:
        """Until the save in flight, if there is one, has ended."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
        self._tell()

    def close(self) -> None:
        """Wait, and end the background thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            if self._claim is not None:
                self._claim.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_claim(self) -> None:
        self._claim = SavingLock(self._journal.path)

    def _place(self, role: str, name: str) -> Path:
        return self._journal.path / role / name

    def _save(self, step: int, paths: tuple[Path, ...], value: float | None = None) -> list[Path]:
        """Stage the state and hand it over. A state that cannot be staged fails on all ranks together, in `write`."""
        self.wait()
        contents = self.policy.contents(paths[0].parent.name)
        staged: Staged | Exception
        try:
            staged = stage(self._sections(contents), self._ranks.rank, self._shared())
        except Exception as error:
            staged = error
        metric = None if value is None else self.policy.best_k_metric
        job = Job(step, paths, contents, staged, metric, value)
        if self._thread is not None and not isinstance(staged, UsageError):
            self._pending = self._thread.submit(self._write, job)
            return list(paths)
        self._write(job)
        if isinstance(staged, UsageError):
            self._troubles.clear()
            raise staged
        self._tell()
        return list(paths)

    def _sections(self, contents: str) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self._state.state_dict()
        if contents == "full":
            return state
        if "model" not in state:
            raise UsageError("a checkpoint of parameters only needs a section 'model' in the state")
        return {"model": state["model"]}

    def _shared(self) -> frozenset[str]:
        return self._state.shared if isinstance(self._state, TrainState) else frozenset(SHARED)

    def _write(self, job: Job) -> None:
        """Runs in the background thread, on all ranks."""
        started = time.monotonic()
        try:
            self._ranks.together(self._journal.flush)
            size = write(job, self._ranks, self._token, self._journal.state_hashes)
        except Exception as error:
            if self._ranks.first:
                self._report_failure(job, error)
            return
        self._saved |= {(path.parent.name, job.step) for path in job.paths}
        if self._ranks.first:
            seconds = round(time.monotonic() - started, 3)
            for path in job.paths:
                self._note("checkpoint", job.step, path, contents=job.contents, bytes=size, seconds=seconds)
            self._tidy(job)

    def _tidy(self, job: Job) -> None:
        """`latest` and retention. What cannot be removed stays, and is tried again after the next save."""
        try:
            self._shelf.point_latest()
            for path in job.paths:
                for entry in self._shelf.surplus(path.parent.name, self.policy):
                    self._delete(entry)
        except OSError as error:
            reason = plain(error, 400)
            self._note("retention_failed", job.step, reason=reason)
            self._troubles.append(f"retention after step {job.step} could not remove what it should ({reason})")

    def _report_failure(self, job: Job, error: Exception) -> None:
        reason = plain(f"{type(error).__name__}: {error}", 400)
        for path in job.paths:
            self._note("checkpoint_failed", job.step, path, contents=job.contents, reason=reason)
        self._troubles.append(f"the checkpoint of step {job.step} could not be saved ({reason}); training goes on")

    def _delete(self, entry: StoredCheckpoint) -> None:
        self._shelf.remove(entry.path)
        self._note("checkpoint_deleted", entry.step, entry.path, contents=entry.manifest.contents)

    def _among_best(self, value: float) -> bool:
        kept = [entry.manifest.value or 0.0 for entry in self._shelf.entries("best-k") if entry.alive]
        no_worse = [one for one in kept if self.policy.better(one) <= self.policy.better(value)]
        return len(no_worse) < self.policy.best_k

    def _alive(self) -> set[tuple[str, int]]:
        return {(entry.role, entry.step) for entry in self._shelf.entries() if entry.alive}

    def _choose(self, path: str | Path | None, verify: bool) -> StoredCheckpoint | None:
        """Runs on rank 0."""
        if path is not None:
            entry = read_stored(self._find(path))
            reason = unsound(entry.path, verify)
            if reason is not None:
                raise UnreadableInput(reason, file=plain(entry.path, 1000))
            return entry
        entry, refused = choose(self._shelf, verify)
        for place, reason in refused:
            self._note("checkpoint_refused", None, place, reason=plain(reason, 400))
        if entry is None and refused:
            raise UnreadableInput(
                f"every checkpoint was refused, such as {refused[0][1]}",
                file=plain(self._journal.path, 1000),
                hint="To start from scratch on purpose, move them away.",
            )
        self._troubles += [f"refused {self._name(place)}: {plain(reason, 400)}" for place, reason in refused]
        damaged = {place for place, _ in refused}
        self._mark([e for e in self._shelf.entries() if e.path in damaged], "refused as damaged")
        return entry

    def _find(self, path: str | Path) -> Path:
        """`path` as given, or within the run; links resolved."""
        within = self._journal.path / path
        return (within if within.exists() else Path(path)).resolve()

    def _tell_resume(self, resumed: Resumed, *, on_purpose: bool) -> None:
        """Runs on rank 0: what came after is no longer the run's history, and what was done is told."""
        entries = self._shelf.entries()
        later = [entry for entry in entries if entry.alive and entry.step > resumed.step]
        self._mark(later, f"resumed from step {resumed.step}")
        self._mark([e for e in entries if not e.alive and e.path.samefile(resumed.path)], None)
        told: dict[str, Any] = {
            "from_step": resumed.step,
            "checkpoint": self._name(resumed.path),
            "role": resumed.role,
            "contents": resumed.contents,
            "restored": list(resumed.restored),
            "missing": list(resumed.missing),
            "unused": list(resumed.unused),
            "changed": {key: list(pair) for key, pair in resumed.changed.items()},
            "set_aside": [self._name(entry.path) for entry in later],
            "world_size": resumed.world_size,
            "saved_world_size": resumed.saved_world_size,
        }
        if resumed.optimizer_reset:
            told["optimizer_reset"] = True
            self._troubles.append(f"resumed from parameters only at step {resumed.step}: the optimizer is reset")
        elif resumed.missing and not on_purpose:
            self._troubles.append(f"resumed from step {resumed.step} without {listed(resumed.missing)}")
        self._journal.event("resume", resumed.step, **told)

    def _mark(self, entries: Sequence[StoredCheckpoint], discarded: str | None) -> None:
        try:
            self._shelf.mark(entries, discarded)
        except OSError as error:
            self._troubles.append(f"{len(entries)} checkpoints could not be marked {discarded!r} ({plain(error, 200)})")

    def _note(self, event: str, step: int | None, path: Path | None = None, **keys: Any) -> None:
        place = {} if path is None else {"role": path.parent.name, "path": self._name(path)}
        self._journal.event(event, step, **place, **keys)

    def _name(self, path: Path) -> str:
        """`path` relative to the run, where it lies in it."""
        return relative_path(path.resolve(), self._journal.path.resolve())

    def _tell(self) -> None:
        """Say in the training thread what went wrong in the other one."""
        while self._troubles:
            _warn(self._troubles.pop(0), CheckpointWarning)


def _warn(message: str, kind: type[Warning]) -> None:
    warnings.warn(message, kind, stacklevel=4)
