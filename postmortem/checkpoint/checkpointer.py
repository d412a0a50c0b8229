"""Saves checkpoints by cadence without delaying the training, and resumes from them."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from postmortem.checkpoint._journal import CheckpointWarning, Journal, NotFinite
from postmortem.checkpoint._saving_lock import SavingLock
from postmortem.checkpoint.inspection import nonfinite_text
from postmortem.checkpoint.load import read_state
from postmortem.checkpoint.policy import Policy
from postmortem.checkpoint.ranks import Ranks
from postmortem.checkpoint.resume import (
    Resumed,
    changed_settings,
    check_model,
    check_optimizers,
    choose_checkpoint,
    find_problem,
    first_names,
    missing_parts,
    settings_of,
)
from postmortem.checkpoint.retention import CheckpointFolders, StoredCheckpoint, read_stored, step_name
from postmortem.checkpoint.staging import SHARED, Staged, stage
from postmortem.checkpoint.state import Stateful, TrainState
from postmortem.checkpoint.writing import SaveJob, write
from postmortem.errors import UnreadableInput, UsageError
from postmortem.run.manifest import inside
from postmortem.text import plain, relative_path

__all__ = ["Checkpointer", "Resumed", "Stateful"]

TRAINING_GOES_ON = "; training goes on"  # how the warning about a failed save ends: a replay does not go on

_RESET = "restoring such a checkpoint resets the optimizer"


class Checkpointer:
    """Saves `state` into a run by the three cadences of `policy`, and resumes from what was saved.

    journal: the run's `Recorder`, or another object that writes its journal. state: a `TrainState`, a
    `postmortem.program.Program`, or any object whose `state_dict()` is a nested mapping of sections.
    asynchronous: the training thread only copies the state; a background thread writes it, one save at a time.

    A save that fails is journaled as `checkpoint_failed`, with a warning at the next call; training goes on. With
    torch.distributed initialized, all ranks construct their Checkpointer and make every call together, on one file
    system.

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
        self._folders = CheckpointFolders(journal.path)
        self._lock: SavingLock | None = None
        self._ranks.run_on_rank_0(self._take_lock)
        self._thread = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._pending: Future[None] | None = None
        self._warnings: list[CheckpointWarning] = []
        self._temporary_suffix = self._ranks.run_on_rank_0(lambda: str(os.getpid()))
        self._ranks.run_on_rank_0(self._folders.remove_leftovers)
        self._saved = self._ranks.run_on_rank_0(self._saves_in_history)
        if self.policy.rollback_every and self.policy.rollback_contents == "parameters" and self._ranks.first:
            warnings.warn(f"rollback checkpoints have only parameters: {_RESET}", stacklevel=2)

    def maybe_save(self, step: int) -> list[Path]:
        """Save what is due after `step` updates; returns the directories, which are complete once `wait` returns. Roles
        that are due together share one write. A step of the effective history that is saved already is not saved
        again."""
        self._emit_pending_warnings()
        due = [role for role in self.policy.due(step) if (role, step) not in self._saved]
        if not due:
            return []
        paths = tuple(self._path_of(role, step_name(step)) for role in due)
        return self._save(step, paths)

    def save(self, step: int, role: str) -> Path:
        """Save a rollback or recovery checkpoint now, independent of the cadence. See `maybe_save`.

        Raises:
            UsageError: another role, or a state that cannot be in a checkpoint.
        """
        if role not in ("rollback", "recovery"):
            raise UsageError(f"role {plain(role, 40)!r}: expected rollback or recovery; best() saves by a metric")
        self._emit_pending_warnings()
        path = self._path_of(role, step_name(step))
        return path if (role, step) in self._saved else self._save(step, (path,))[0]

    def best(self, step: int, value: float) -> Path | None:
        """Save the parameters if `value` of the policy's metric is among the best K; returns the directory, or None. Of
        two equal values the earlier is the better one."""
        self.wait()
        if not self.policy.best_k:
            return None
        value = float(value)
        if not math.isfinite(value):
            if self._ranks.first:
                self._journal_event("best_k_refused", step, metric=self.policy.best_k_metric, value=value)
            return None
        if not self._ranks.run_on_rank_0(lambda: self._among_best(value)):
            return None
        path = self._path_of("best-k", self.policy.best_name(step, value))
        return self._save(step, (path,), value)[0]

    def resume(
        self,
        path: str | Path | None = None,
        *,
        parts: Sequence[str] | None = None,
        optional: Sequence[str] = (),
        verify: bool = True,
        allow_nonfinite: bool = False,
    ) -> Resumed | None:
        """Restore the newest sound, finite and full checkpoint of the run's effective history, or the one in `path`;
        None if there is no checkpoint. With `parts` ("model", "optimizer.step"), only these are restored. `optional`
        parts may be missing without a warning. Checkpoints of later steps are set aside, because the run repeats these
        steps. One with NaN or infinite elements is refused, unless it is named and `allow_nonfinite`. `verify` reads
        every byte; without, it is as finite as its save recorded.

        Raises:
            UnreadableInput: every checkpoint is damaged or not finite, or the one in `path` is.
            UsageError: the checkpoint's model or optimizer is a different one, or a part is not in it.
        """
        self.wait()
        entry = self._ranks.run_on_rank_0(lambda: self._choose(path, verify, allow_nonfinite))
        if entry is None:
            return None
        state = self._state.state_dict()
        built_settings = settings_of(state)
        loaded: dict[str, Any] = {}

        def read() -> None:
            loaded.update(read_state(entry.path, rank=self._ranks.rank, parts=parts, like=state))
            if "model" in (loaded if parts is None else parts):
                check_model(entry.path, state, loaded)
            check_optimizers(entry.path, state, loaded)

        self._ranks.run_on_all_ranks(read)
        self._state.load_state_dict(loaded)
        resumed = Resumed(
            step=entry.step,
            path=entry.path,
            role=entry.role,
            contents=entry.manifest.contents,
            restored=tuple(loaded if parts is None else parts),
            missing=tuple(part for part in missing_parts(state, loaded) if part not in optional),
            unused=tuple(name for name in loaded if name not in state),
            changed=changed_settings(built_settings, settings_of(self._state.state_dict())),
            saved_world_size=entry.manifest.world_size,
            world_size=self._ranks.world,
        )
        self._ranks.run_on_rank_0(lambda: self._journal_resume(resumed, chosen_parts=parts is not None))
        self._saved = self._ranks.run_on_rank_0(self._saves_in_history)
        self._emit_pending_warnings()
        return resumed

    def delete(self, path: str | Path) -> None:
        """Remove a checkpoint of this run now, after `latest` leads to another one.

        Raises:
            UnreadableInput: there is no complete checkpoint, or it is outside the run.
        """
        self.wait()

        def delete() -> None:
            checkpoint = inside(self._journal.path, str(self._resolved(path)), plain(self._journal.path, 1000))
            self._delete(read_stored(checkpoint))

        self._ranks.run_on_rank_0(delete)
        self._saved = self._ranks.run_on_rank_0(self._saves_in_history)

    def wait(self) -> None:
        """Wait until the current save has ended, if there is one."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
        self._emit_pending_warnings()

    def close(self) -> None:
        """Wait, and end the background thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_lock(self) -> None:
        self._lock = SavingLock(self._journal.path)

    def _path_of(self, role: str, name: str) -> Path:
        return self._journal.path / role / name

    def _save(self, step: int, paths: tuple[Path, ...], value: float | None = None) -> list[Path]:
        """Stage the state and write it. A state that cannot be staged fails on all ranks together, in `write`."""
        self.wait()
        contents = self.policy.contents(paths[0].parent.name)
        staged: Staged | Exception
        try:
            staged = stage(self._sections(contents), self._ranks.rank, self._shared_sections())
        except Exception as error:  # noqa: BLE001 - `write` raises it, on all ranks
            staged = error
        metric = None if value is None else self.policy.best_k_metric
        job = SaveJob(step, paths, contents, staged, metric, value)
        if self._thread is not None and not isinstance(staged, UsageError):
            self._pending = self._thread.submit(self._write, job)
            return list(paths)
        self._write(job)
        if isinstance(staged, UsageError):
            self._warnings.clear()
            raise staged
        self._emit_pending_warnings()
        return list(paths)

    def _sections(self, contents: str) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self._state.state_dict()
        if contents == "full":
            return state
        if "model" not in state:
            raise UsageError("a checkpoint of only parameters needs a section 'model' in the state")
        return {"model": state["model"]}

    def _shared_sections(self) -> frozenset[str]:
        return self._state.shared if isinstance(self._state, TrainState) else frozenset(SHARED)

    def _write(self, job: SaveJob) -> None:
        """Runs in the background thread, on all ranks."""
        started = time.monotonic()
        try:
            self._ranks.run_on_all_ranks(self._journal.flush)
            written = write(job, self._ranks, self._temporary_suffix, self._journal.state_hashes)
        except Exception as error:  # noqa: BLE001 - a save that fails must not end the training
            if self._ranks.first:
                self._report_failure(job, error)
            return
        self._saved |= {(path.parent.name, job.step) for path in job.paths}
        if self._ranks.first:
            seconds = round(time.monotonic() - started, 3)
            keys: dict[str, Any] = {"contents": job.contents, "bytes": written.bytes, "seconds": seconds}
            if written.nonfinite:
                keys["nonfinite"] = sum(written.nonfinite.values())
                text = f"the checkpoint of step {job.step} is not finite ({nonfinite_text(written.nonfinite)})"
                self._warnings.append(NotFinite(f"{text}: no resume takes it, and the newest finite one is kept"))
            for path in job.paths:
                self._journal_event("checkpoint", job.step, path, **keys)
            self._apply_retention(job)

    def _apply_retention(self, job: SaveJob) -> None:
        """Update `latest` and remove old checkpoints. If that fails, it is tried again after the next save."""
        try:
            self._folders.update_latest()
            for path in job.paths:
                for entry in self._folders.to_remove(path.parent.name, self.policy):
                    self._delete(entry)
        except OSError as error:
            reason = plain(error, 400)
            self._journal_event("retention_failed", job.step, reason=reason)
            self._warnings.append(
                CheckpointWarning(f"retention after step {job.step} could not remove what it should ({reason})")
            )

    def _report_failure(self, job: SaveJob, error: Exception) -> None:
        reason = plain(f"{type(error).__name__}: {error}", 400)
        for path in job.paths:
            self._journal_event("checkpoint_failed", job.step, path, contents=job.contents, reason=reason)
        self._warnings.append(
            CheckpointWarning(f"the checkpoint of step {job.step} could not be saved ({reason}){TRAINING_GOES_ON}")
        )

    def _delete(self, entry: StoredCheckpoint) -> None:
        self._folders.remove(entry.path)
        self._journal_event("checkpoint_deleted", entry.step, entry.path, contents=entry.manifest.contents)

    def _among_best(self, value: float) -> bool:
        values = [entry.manifest.value or 0.0 for entry in self._folders.entries("best-k") if entry.in_history]
        no_worse = [saved for saved in values if self.policy.better(saved) <= self.policy.better(value)]
        return len(no_worse) < self.policy.best_k

    def _saves_in_history(self) -> set[tuple[str, int]]:
        return {(entry.role, entry.step) for entry in self._folders.entries() if entry.in_history}

    def _choose(self, path: str | Path | None, verify: bool, allow_nonfinite: bool) -> StoredCheckpoint | None:
        """Runs on rank 0."""
        if path is not None:
            entry = read_stored(self._resolved(path))
            reason = find_problem(entry.path, verify, allow_nonfinite=allow_nonfinite)
            if reason is not None:
                raise UnreadableInput(reason, file=plain(entry.path, 1000))
            return entry
        entry, refused = choose_checkpoint(self._folders, verify)
        for refused_path, reason in refused:
            self._journal_event("checkpoint_refused", None, refused_path, reason=plain(reason, 400))
        if entry is None and refused:
            raise UnreadableInput(
                f"every checkpoint was refused, for example {refused[0][1]}",
                file=plain(self._journal.path, 1000),
                hint="To start from scratch on purpose, move them away.",
            )
        self._warnings += [
            CheckpointWarning(f"refused {self._name_in_run(path)}: {plain(reason, 400)}") for path, reason in refused
        ]
        unusable = {refused_path for refused_path, _ in refused}
        self._set_discarded([e for e in self._folders.entries() if e.path in unusable], "refused by a resume")
        return entry

    def _resolved(self, path: str | Path) -> Path:
        """`path` as given, or within the run; links resolved."""
        within = self._journal.path / path
        return (within if within.exists() else Path(path)).resolve()

    def _journal_resume(self, resumed: Resumed, *, chosen_parts: bool) -> None:
        """Runs on rank 0: set later checkpoints aside, and journal what was restored."""
        entries = self._folders.entries()
        later = [entry for entry in entries if entry.in_history and entry.step > resumed.step]
        self._set_discarded(later, f"resumed from step {resumed.step}")
        self._set_discarded([e for e in entries if not e.in_history and e.path.samefile(resumed.path)], None)
        keys: dict[str, Any] = {
            "from_step": resumed.step,
            "checkpoint": self._name_in_run(resumed.path),
            "role": resumed.role,
            "contents": resumed.contents,
            "restored": list(resumed.restored),
            "missing": list(resumed.missing),
            "unused": list(resumed.unused),
            "changed": {key: list(pair) for key, pair in resumed.changed.items()},
            "set_aside": [self._name_in_run(entry.path) for entry in later],
            "world_size": resumed.world_size,
            "saved_world_size": resumed.saved_world_size,
        }
        if resumed.optimizer_reset:
            keys["optimizer_reset"] = True
            self._warnings.append(
                CheckpointWarning(f"resumed from only parameters at step {resumed.step}: the optimizer is reset")
            )
        elif resumed.missing and not chosen_parts:
            self._warnings.append(
                CheckpointWarning(f"resumed from step {resumed.step} without {first_names(resumed.missing)}")
            )
        self._journal.event("resume", resumed.step, **keys)

    def _set_discarded(self, entries: Sequence[StoredCheckpoint], reason: str | None) -> None:
        try:
            self._folders.set_discarded(entries, reason)
        except OSError as error:
            self._warnings.append(
                CheckpointWarning(f"{len(entries)} checkpoints could not be marked {reason!r} ({plain(error, 200)})")
            )

    def _journal_event(self, event: str, step: int | None, path: Path | None = None, **keys: Any) -> None:
        place = {} if path is None else {"role": path.parent.name, "path": self._name_in_run(path)}
        self._journal.event(event, step, **place, **keys)

    def _name_in_run(self, path: Path) -> str:
        """`path` relative to the run, if it is inside."""
        return relative_path(path.resolve(), self._journal.path.resolve())

    def _emit_pending_warnings(self) -> None:
        """Warn, in the training thread, about what went wrong in the background thread."""
        while self._warnings:
            warnings.warn(self._warnings.pop(0), stacklevel=3)
