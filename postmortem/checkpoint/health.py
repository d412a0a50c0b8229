"""Whether the numbers in a checkpoint are finite: recorded at its save, or looked at once and kept beside the run.

A checkpoint that nobody looked at is never called healthy: a NaN in a parameter that no batch reads stays unseen in the
loss for as long as no batch reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from postmortem.atomic import make_folder, saving, write_text
from postmortem.checkpoint.inspection import Inspection, inspect, nonfinite_text
from postmortem.checkpoint.plan import readable_size
from postmortem.errors import CannotWrite, UnreadableInput
from postmortem.jsonio import read_record, strict_json
from postmortem.run import Checkpoint, Run
from postmortem.run.checkpoints import file_sizes
from postmortem.run.manifest import inside
from postmortem.text import plain

KEPT = "postmortem/checkpoints.json"
FORMAT = 1  # of that file
READ_LIMIT = 256 * 2**20
"""Bytes of checkpoints that a draft reads: less than a second. What is larger waits for `postmortem checkpoints`."""

State = Literal["finite", "not finite", "unreadable", "not looked at"]


@dataclass(frozen=True)
class Health:
    """What is known of one checkpoint. nonfinite: tensor → number of NaN and infinite elements. source: "recorded" at
    the save, "kept" from an earlier look, "looked at" now, or "" where nothing is known. parameters_only: restoring it
    resets the optimizer."""

    state: State
    source: Literal["recorded", "kept", "looked at", ""] = ""
    nonfinite: Mapping[str, int] = field(default_factory=dict[str, int])
    problem: str = ""
    parameters_only: bool = False

    @property
    def healthy(self) -> bool:
        """Whether a training can go on from it: all of its numbers are finite, and the optimizer's are among them."""
        return self.state == "finite" and not self.parameters_only

    @property
    def text(self) -> str:
        """What is known, in words that follow the name of the checkpoint."""
        if self.state == "not finite":
            return f"is not finite: {nonfinite_text(self.nonfinite)}"
        if self.state == "unreadable":
            return f"cannot be read: {self.problem}"
        if self.state == "not looked at":
            return f"was not looked at ({self.problem})"
        return "has parameters only, so that restoring it resets the optimizer" if self.parameters_only else "is finite"


@dataclass(frozen=True)
class _Look:
    """One look, as it is kept: `files` is a hash of the names, sizes and times of the checkpoint's files."""

    files: str
    nonfinite: Mapping[str, int]
    problem: str = ""
    parameters_only: bool = False


@dataclass(frozen=True)
class _Looks:
    """The content of `KEPT`: by path in the run."""

    format: int
    checkpoints: Mapping[str, _Look]


class RunHealth:
    """The health of the checkpoints of one run. Up to `READ_LIMIT` bytes of them are read, unless all are wanted."""

    def __init__(self, root: Path | None) -> None:
        self._root, self._left = root, READ_LIMIT
        self._known: dict[Path, Health] = {}
        self._looks = dict(_read_looks(root))
        self._new = False

    def of(self, checkpoint: Checkpoint, *, whole: bool = False) -> Health:
        """The health of `checkpoint`. With `whole` it is looked at whatever its size is, unless its save recorded it:
        what is kept beside the run comes with the run, and a command that loads a checkpoint does not rely on it."""
        known = self._known.get(checkpoint.path)
        if known is None or (whole and known.source in ("kept", "")):
            known = self._find(checkpoint.path, checkpoint.size_bytes, whole)
            known = replace(known, parameters_only=known.parameters_only or checkpoint.parameters_only)
            self._known[checkpoint.path] = known
        return known

    def add(self, inspection: Inspection) -> None:
        """Keep what another command has found out about a checkpoint, if it looked at all of it."""
        if inspection.nonfinite is not None and not inspection.temporary:
            self._remember(inspection, _files_hash(inspection.path))

    def keep(self) -> None:
        """Write what was looked at beside the run, so that no later command needs to look again. A run that cannot be
        written stays as it is."""
        if self._root is None or not self._new:
            return
        with suppress(CannotWrite), saving(self._root / KEPT, within=self._root, option=""):
            make_folder((self._root / KEPT).parent)
            write_text(self._root / KEPT, strict_json(_Looks(FORMAT, self._looks), sort_keys=True))
        self._new = False

    def _find(self, path: Path, size: int, whole: bool) -> Health:
        files, kept = _files_hash(path), self._looks.get(self._name(path))
        if kept is not None and kept.files == files and not whole:
            return _health(kept.nonfinite, kept.problem, "kept", kept.parameters_only)
        quick = inspect(path, deep=False, pieces=False)
        if quick.recorded is not None and quick.sound:
            return _health(quick.recorded, "", "recorded", _has_parameters_only(quick))
        if quick.sound and size > self._left and not whole:
            reason = f"it has {readable_size(size)}; a draft reads up to {readable_size(READ_LIMIT)}"
            return Health("not looked at", problem=reason, parameters_only=_has_parameters_only(quick))
        self._left -= min(size, self._left)
        return self._remember(inspect(path), files)

    def _remember(self, inspection: Inspection, files: str) -> Health:
        problem = "" if inspection.sound else next(iter(inspection.problems), "the save was cut short")
        look = _Look(files, inspection.nonfinite or {}, plain(problem, 200), _has_parameters_only(inspection))
        self._looks[self._name(inspection.path)] = look
        self._new = True
        return _health(look.nonfinite, look.problem, "looked at", look.parameters_only)

    def _name(self, path: Path) -> str:
        with suppress(ValueError):
            return path.resolve().relative_to((self._root or path).resolve()).as_posix()
        return plain(path, 1000)


_OF_RUNS: WeakKeyDictionary[Run, RunHealth] = WeakKeyDictionary()


def health_in(run: Run) -> RunHealth:
    """The health of the checkpoints of `run`, which is looked at once in a process."""
    if run not in _OF_RUNS:
        _OF_RUNS[run] = RunHealth(run.root)
    return _OF_RUNS[run]


def _health(
    nonfinite: Mapping[str, int], problem: str, source: Literal["recorded", "kept", "looked at"], parameters_only: bool
) -> Health:
    state: State = "unreadable" if problem else "not finite" if nonfinite else "finite"
    return Health(state, source, nonfinite, problem, parameters_only)


def _has_parameters_only(inspection: Inspection) -> bool:
    """By its own word, or because it has no state of an optimizer."""
    if inspection.declared is not None:
        return inspection.declared == "parameters"
    return bool(inspection.contents) and not inspection.optimizer


def _files_hash(path: Path) -> str:
    """A hash of the names, sizes and times of all files of a checkpoint."""
    state = hashlib.sha256()
    for name in file_sizes(path) if path.is_dir() else [str(path)]:
        info = Path(name).lstat()
        state.update(f"{Path(name).relative_to(path)}\0{info.st_size}\0{info.st_mtime_ns}\n".encode(errors="replace"))
    return state.hexdigest()[:32]


def _read_looks(root: Path | None) -> Mapping[str, _Look]:
    """What earlier commands found out; nothing where the file is not ours, or cannot be read."""
    with suppress(OSError, UnreadableInput):
        if root is not None:
            looks = read_record(_Looks, inside(root, KEPT, root.name), "the looks at checkpoints")
            return looks.checkpoints if looks.format == FORMAT else {}
    return {}
