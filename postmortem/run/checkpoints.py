"""The checkpoints of a run, by name and size. They are never opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from postmortem.run.journal import Event
from postmortem.run.manifest import inside
from postmortem.text import plain

ROLES = ("rollback", "recovery", "best-k")
_STEP = re.compile(r"(?:^|[-_])(?:step|checkpoint|ckpt)[-_]?(\d{1,18})(?=\D|$)")


@dataclass(frozen=True)
class Checkpoint:
    """One saved state. `complete` is False where the save broke off; `size_bytes` counts every file of it."""

    role: str
    step: int
    path: Path
    complete: bool
    size_bytes: int


def find_checkpoints(root: Path, journal: Sequence[Event]) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """(checkpoints by step, notes): what lies under rollback/, recovery/ and best-k/, and what the journal names.

    A path that exists no longer was removed by retention and is left out. The step is that of the file name, or of the
    journal's event.

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
            match = _STEP.search(entry.name)
            if match and target.exists():
                found[target] = _checkpoint(role, int(match[1]), entry)
    for event in journal:
        path = event.keys.get("path")
        if event.event != "checkpoint" or not isinstance(path, str):
            continue
        target = inside(root, path, f"journal.jsonl:{event.line}")
        match = _STEP.search(target.name)
        step = event.step if event.step is not None else int(match[1]) if match else None
        if not target.exists() or target in found or step is None or target == base:
            continue
        role = event.keys.get("role")
        found[target] = _checkpoint(plain(role, 40) if isinstance(role, str) else "other", step, target)
    latest = root / "latest"
    if latest.is_symlink() and not inside(root, "latest", root.name or str(root)).exists():
        notes.append("latest: the link leads to nothing")
    return tuple(sorted(found.values(), key=lambda c: (c.step, c.role, str(c.path)))), notes


def _checkpoint(role: str, step: int, path: Path) -> Checkpoint:
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
        sharded = path.suffix == ".dcp" or any(p.suffix == ".distcp" for p in files)
        complete = bool(files) and not path.name.endswith(".tmp") and (not sharded or (path / ".metadata").is_file())
        return Checkpoint(role, step, path, complete, sum(p.stat().st_size for p in files))
    size = path.stat().st_size
    return Checkpoint(role, step, path, size > 0 and not path.name.endswith(".tmp"), size)
