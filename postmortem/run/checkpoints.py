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
LATEST = "latest"  # the link to the newest
_OWN = re.compile(r"(?:^|-)step-(\d{8,18})\.dcp$")
_STEP = re.compile(r"(?:^|[-_])(?:step|checkpoint|ckpt)[-_]?(\d{1,18})(?=\D|$)")


@dataclass(frozen=True)
class Checkpoint:
    """One saved state. `complete` is False where the save broke off; `size_bytes` counts every file of it.

    `parameters_only`: the journal says that nothing else is in it, so that restoring it resets the optimizer.
    """

    role: str
    step: int
    path: Path
    complete: bool
    size_bytes: int
    parameters_only: bool = False


def find_checkpoints(root: Path, journal: Sequence[Event]) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """(checkpoints by step, notes): what lies under rollback/, recovery/ and best-k/, and what the journal names.

    A path that exists no longer was removed by retention and is left out, and so is one that a resume from an earlier
    step set aside. The step is that of the file name, or of the journal's event.

    Raises:
        UnreadableInput: a checkpoint, or the `latest` link, leads outside the run.
    """
    found: dict[Path, Checkpoint] = {}
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
                with suppress(FileNotFoundError):  # a live run's retention may be removing it
                    found[target] = _checkpoint(role, step, entry)
    for event in journal:
        path = event.keys.get("path")
        if event.event != "checkpoint" or not isinstance(path, str):
            continue
        target = inside(root, path, f"journal.jsonl:{event.line}")
        step = event.step if event.step is not None else _step(target.name)
        if not target.exists() or target in found or step is None or target == base:
            continue
        role = event.keys.get("role")
        with suppress(FileNotFoundError):
            found[target] = _checkpoint(plain(role, 40) if isinstance(role, str) else "other", step, target)
    latest = root / LATEST
    if latest.is_symlink() and not inside(root, LATEST, root.name or str(root)).exists():
        notes.append(f"{LATEST}: the link leads to nothing")
    aside, bare = _told(base, journal)
    kept = [replace(one, parameters_only=target in bare) for target, one in found.items() if target not in aside]
    return tuple(sorted(kept, key=lambda c: (c.step, c.role, str(c.path)))), notes


def _told(base: Path, journal: Sequence[Event]) -> tuple[set[Path], set[Path]]:
    """(paths that a later resume set aside, paths that hold parameters only), by the journal."""
    aside: set[Path] = set()
    bare: set[Path] = set()
    for event in journal:
        path, left = event.keys.get("path"), event.keys.get("set_aside")
        if event.event == "checkpoint" and isinstance(path, str):
            target = inside(base, path, f"journal.jsonl:{event.line}")
            aside.discard(target)
            (bare.add if event.keys.get("contents") == "parameters" else bare.discard)(target)
        elif event.event == "resume" and isinstance(left, list):
            names = [name for name in cast(list[object], left) if isinstance(name, str)]
            aside |= {inside(base, name, f"journal.jsonl:{event.line}") for name in names}
            back = event.keys.get("checkpoint")  # one that was set aside is history again once a run resumed from it
            if isinstance(back, str) and (base / back).exists():
                aside.discard((base / back).resolve())
    return aside, bare


def _step(name: str) -> int | None:
    """The step that a name holds; None where it holds none, or where a save in progress has that name."""
    match = None if name.startswith(".") else _OWN.search(name) or _STEP.search(name)
    return int(match[1]) if match else None


def _checkpoint(role: str, step: int, path: Path) -> Checkpoint:
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
        sharded = path.suffix == ".dcp" or any(p.suffix == ".distcp" for p in files)
        complete = bool(files) and not path.name.endswith(".tmp") and (not sharded or (path / ".metadata").is_file())
        return Checkpoint(role, step, path, complete, sum(p.stat().st_size for p in files))
    size = path.stat().st_size
    return Checkpoint(role, step, path, size > 0 and not path.name.endswith(".tmp"), size)
