"""The checkpoints of a run, by name and size. They are never opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from postmortem.errors import UnreadableInput
from postmortem.run.journal import Event, events_of
from postmortem.run.manifest import inside
from postmortem.run.places import Places
from postmortem.text import plain

ROLES = ("rollback", "recovery", "best-k")
LATEST = "latest"  # the link to the newest checkpoint
_ROLE = r"rollback|recovery|best[-_]k"
_STEP = re.compile(rf"(?:^|[-_.])(?:step|checkpoint|ckpt|{_ROLE})[-_]?(\d{{1,18}})(?=\D|$)")
# A role in a name at the top of a run. Without the word `step`, the number has eight digits: `rollback-2/` may be
# the notes of a second attempt.
_WITH_ROLE = re.compile(
    rf"\.?({_ROLE})[-_](?:\d{{8,18}}|(?:\S*[-_.])?step[-_]?\d{{1,18}})(?:\.(?:dcp|pt|pth|ckpt|bin))?(?:\.tmp\S*)?"
)


@dataclass(frozen=True)
class Checkpoint:
    """One saved state. `complete` is False where the save was interrupted; `size_bytes` counts all its files.

    `parameters_only`: the journal says that it contains nothing else, so that restoring it resets the optimizer.
    """

    role: str
    step: int
    path: Path
    complete: bool
    size_bytes: int
    parameters_only: bool = False


def find_checkpoints(root: Path, journal: Sequence[Event]) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """(checkpoints by step, notes): what has the name of one, see `named_checkpoints`, and what the journal names.

    A path that does not exist any more was removed by retention and is left out, and so is a checkpoint that a resume
    from an earlier step set aside. The step is that of the file name, or of the journal's event.

    Raises:
        UnreadableInput: a checkpoint, or the `latest` link, leads outside the run.
    """
    places = Places(root)
    by_path: dict[str, Checkpoint] = {}
    notes: list[str] = []
    for role in ROLES:
        if (root / role).is_dir():
            inside(root, role, root.name or str(root))
            for name in _names(root / role):  # no checkpoint, but nothing in a run leads outside it
                if step_in_name(name) is None:
                    places.find(f"{role}/{name}", f"{root.name}/{role}")
    for name in named_checkpoints(root):
        target, exists = places.find(name, root.name or str(root))
        path = root / name
        step = None if path.name.startswith(".") else step_in_name(path.name)
        if step is not None and exists:
            with suppress(FileNotFoundError):  # the retention of a live run may be removing it
                by_path[target] = _checkpoint(role_of(path), step, path)
    marks = _Marks(set(), set())
    for event in events_of(journal, "checkpoint", "resume"):
        if event.event == "checkpoint":
            _add_journaled(event, places, by_path, marks)
        else:
            marks.add_resume(event, places)
    latest = root / LATEST
    if latest.is_symlink() and not inside(root, LATEST, root.name or str(root)).exists():
        notes.append(f"{LATEST}: the link points to nothing")
    checkpoints = [
        replace(checkpoint, parameters_only=path in marks.bare)
        for path, checkpoint in by_path.items()
        if path not in marks.set_aside
    ]
    return tuple(sorted(checkpoints, key=lambda c: (c.step, c.role, str(c.path)))), notes


def named_checkpoints(root: Path) -> Iterator[str]:
    """Paths in the run `root` of everything that has the name of a checkpoint, also of one that is being written: what
    has a step in its name under rollback/, recovery/ and best-k/, and what has role and step in its name at the top of
    the run (`recovery-00000500`, `rollback-00000100.dcp`). Sorted; nothing is looked at but the names."""
    yield from (name for name in _names(root) if _WITH_ROLE.fullmatch(name))
    for role in ROLES:
        yield from (f"{role}/{name}" for name in _names(root / role) if step_in_name(name) is not None)


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def step_in_name(name: str) -> int | None:
    """The step in the name of a checkpoint, also of one that is being written; None if it has none. It is the last one:
    the name of a best-K checkpoint begins with its metric, which may be called `step-3`."""
    steps = _STEP.findall(name)
    return int(steps[-1]) if steps else None


def role_of(path: Path) -> str:
    """The role of a checkpoint by its folder, or else by its name; "other" if neither says it."""
    folder, named = path.absolute().parent.name, _WITH_ROLE.fullmatch(path.name)
    if folder in ROLES:
        return folder
    return named[1].replace("_", "-") if named else "other"


@dataclass(frozen=True)
class _Marks:
    """What the journal says about checkpoints that exist: those that a later resume set aside, and those that contain
    parameters only."""

    set_aside: set[str]
    bare: set[str]

    def add_checkpoint(self, target: str, event: Event) -> None:
        """It was saved, perhaps once more."""
        self.set_aside.discard(target)
        (self.bare.add if event.keys.get("contents") == "parameters" else self.bare.discard)(target)

    def add_resume(self, event: Event, places: Places) -> None:
        """The later checkpoints are set aside, and the one from which the run resumed counts again."""
        names = event.keys.get("set_aside")
        if not isinstance(names, list):
            return
        for name in cast(list[object], names):
            if isinstance(name, str):
                target, exists = places.find(name, f"journal.jsonl:{event.line}")
                if exists:
                    self.set_aside.add(target)
        origin = event.keys.get("checkpoint")
        if isinstance(origin, str):
            with suppress(UnreadableInput):  # what is outside the run was not set aside in it
                self.set_aside.discard(places.find(origin, "")[0])


def _add_journaled(event: Event, places: Places, by_path: dict[str, Checkpoint], marks: _Marks) -> None:
    """Add the checkpoint that an event names, if it exists and is not known yet."""
    path = event.keys.get("path")
    if not isinstance(path, str):
        return
    target, exists = places.find(path, f"journal.jsonl:{event.line}")
    if not exists:
        return
    marks.add_checkpoint(target, event)
    checkpoint = Path(target)
    step = event.step if event.step is not None else step_in_name(checkpoint.name)
    if target in by_path or step is None or target == places.base:
        return
    role = event.keys.get("role")
    shown = plain(role, 40) if isinstance(role, str) else role_of(checkpoint)
    with suppress(FileNotFoundError):
        by_path[target] = _checkpoint(shown, step, checkpoint)


def _checkpoint(role: str, step: int, path: Path) -> Checkpoint:
    if path.is_dir():
        sizes = file_sizes(path)
        sharded = path.suffix == ".dcp" or any(name.endswith(".distcp") for name in sizes)
        complete = bool(sizes) and not path.name.endswith(".tmp") and (not sharded or (path / ".metadata").is_file())
        return Checkpoint(role, step, path, complete, sum(sizes.values()))
    size = path.stat().st_size
    return Checkpoint(role, step, path, size > 0 and not path.name.endswith(".tmp"), size)


def file_sizes(folder: Path) -> dict[str, int]:
    """Path → bytes of each regular file below `folder`, sorted by path. Links are left out and not followed.

    Raises:
        OSError: the folder, or one in it, cannot be listed.
    """
    sizes: dict[str, int] = {}
    todo = [os.fspath(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    sizes[entry.path] = entry.stat(follow_symlinks=False).st_size
    return dict(sorted(sizes.items()))
