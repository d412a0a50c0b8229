"""The checkpoints of a run, by name and size. They are never opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from postmortem.run.journal import Event
from postmortem.run.manifest import inside
from postmortem.text import plain

ROLES = ("rollback", "recovery", "best-k")
LATEST = "latest"  # the link to the newest checkpoint
_OWN_STEP = re.compile(r"(?:^|-)step-(\d{8,18})\.dcp$")
_ANY_STEP = re.compile(r"(?:^|[-_])(?:step|checkpoint|ckpt)[-_]?(\d{1,18})(?=\D|$)")


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
    """(checkpoints by step, notes): those under rollback/, recovery/ and best-k/, and those that the journal names.

    A path that does not exist any more was removed by retention and is left out, and so is a checkpoint that a resume
    from an earlier step set aside. The step is that of the file name, or of the journal's event.

    Raises:
        UnreadableInput: a checkpoint, or the `latest` link, leads outside the run.
    """
    by_path: dict[Path, Checkpoint] = {}
    notes: list[str] = []
    base = root.resolve()
    for role in ROLES:
        folder = root / role
        if not folder.is_dir():
            continue
        inside(root, role, root.name or str(root))
        for entry in sorted(folder.iterdir()):
            target = inside(root, f"{role}/{entry.name}", f"{root.name}/{role}")
            step = _step(entry.name)
            if step is not None and target.exists():
                with suppress(FileNotFoundError):  # the retention of a live run may be removing it
                    by_path[target] = _checkpoint(role, step, entry)
    for event in journal:
        path = event.keys.get("path")
        if event.event != "checkpoint" or not isinstance(path, str):
            continue
        target = inside(root, path, f"journal.jsonl:{event.line}")
        step = event.step if event.step is not None else _step(target.name)
        if not target.exists() or target in by_path or step is None or target == base:
            continue
        role = event.keys.get("role")
        with suppress(FileNotFoundError):
            by_path[target] = _checkpoint(plain(role, 40) if isinstance(role, str) else "other", step, target)
    latest = root / LATEST
    if latest.is_symlink() and not inside(root, LATEST, root.name or str(root)).exists():
        notes.append(f"{LATEST}: the link points to nothing")
    set_aside, bare = _paths_in_journal(base, journal)
    checkpoints = [
        replace(checkpoint, parameters_only=path in bare)
        for path, checkpoint in by_path.items()
        if path not in set_aside
    ]
    return tuple(sorted(checkpoints, key=lambda c: (c.step, c.role, str(c.path)))), notes


def _paths_in_journal(base: Path, journal: Sequence[Event]) -> tuple[set[Path], set[Path]]:
    """(paths that a later resume set aside, paths that contain parameters only), by the journal."""
    set_aside: set[Path] = set()
    bare: set[Path] = set()
    for event in journal:
        path, names = event.keys.get("path"), event.keys.get("set_aside")
        if event.event == "checkpoint" and isinstance(path, str):
            target = inside(base, path, f"journal.jsonl:{event.line}")
            set_aside.discard(target)
            (bare.add if event.keys.get("contents") == "parameters" else bare.discard)(target)
        elif event.event == "resume" and isinstance(names, list):
            set_aside |= {
                inside(base, name, f"journal.jsonl:{event.line}")
                for name in cast(list[object], names)
                if isinstance(name, str)
            }
            origin = event.keys.get("checkpoint")  # it counts again once the run resumed from it
            if isinstance(origin, str) and (base / origin).exists():
                set_aside.discard((base / origin).resolve())
    return set_aside, bare


def _step(name: str) -> int | None:
    """The step in a checkpoint's name; None where there is none, or where the name is that of a save in progress."""
    match = None if name.startswith(".") else _OWN_STEP.search(name) or _ANY_STEP.search(name)
    return int(match[1]) if match else None


def _checkpoint(role: str, step: int, path: Path) -> Checkpoint:
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
        sharded = path.suffix == ".dcp" or any(p.suffix == ".distcp" for p in files)
        complete = bool(files) and not path.name.endswith(".tmp") and (not sharded or (path / ".metadata").is_file())
        return Checkpoint(role, step, path, complete, sum(p.stat().st_size for p in files))
    size = path.stat().st_size
    return Checkpoint(role, step, path, size > 0 and not path.name.endswith(".tmp"), size)
