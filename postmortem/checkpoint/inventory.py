"""Finds the checkpoints of a run directory; damage of one does not hide the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from postmortem.checkpoint.inspection import Inspection, Progress, inspect, step_of
from postmortem.errors import UnreadableInput
from postmortem.run.checkpoints import LATEST, ROLES
from postmortem.run.journal import read_journal
from postmortem.run.manifest import inside
from postmortem.text import plain


@dataclass(frozen=True)
class PossibleCheckpoint:
    """A path that may be a checkpoint: `shown` is its name in the run, `refused` the reason why it is not read."""

    path: Path
    shown: str
    refused: str = ""

    def inspect(self, *, deep: bool, on_progress: Progress = lambda done, total: None) -> Inspection:
        """Inspect it, see `inspection.inspect`. A refused path has no kind."""
        if self.refused:
            role = self.path.parent.name
            return Inspection(self.path, "", role, step_of(self.path.name), False, 0, problems=(self.refused,))
        return inspect(self.path, deep=deep, on_progress=on_progress)


def possible_checkpoints(run: Path) -> list[PossibleCheckpoint]:
    """The checkpoints under rollback/, recovery/ and best-k/ and those that the journal names; or `run` itself.

    Raises:
        UnreadableInput: there is no checkpoint at all.
    """
    if not run.exists():
        raise UnreadableInput("no such file or directory.", file=plain(run, 1000))
    if run.is_file() or (run / ".metadata").exists() or any(run.glob("*.distcp")):
        return [PossibleCheckpoint(run, plain(run.name))]
    names = [f"{role}/{entry.name}" for role in ROLES for entry in _entries(run / role)]
    by_name = {name: _possible_checkpoint(run, name) for name in (*names, *_journaled(run))}
    by_path = {c.path.resolve(): c for c in reversed(by_name.values()) if c.path.exists() or c.refused}
    if not by_path:
        roles = ", ".join(f"{role}/" for role in ROLES)
        raise UnreadableInput(
            f"has no checkpoints: nothing under {roles}, and journal.jsonl names none.",
            file=plain(run, 1000),
            hint="Give a run directory, or one checkpoint.",
        )
    return sorted(by_path.values(), key=lambda checkpoint: (step_of(checkpoint.path.name) or 0, checkpoint.shown))


def latest(run: Path) -> Path | None:
    """The checkpoint that the link `latest` leads to; None if there is no link, or if it leads out of the run."""
    link = run / LATEST
    if not link.is_symlink():
        return None
    try:
        return inside(run, LATEST, LATEST)
    except UnreadableInput:
        return None


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if step_of(entry.name) is not None] if folder.is_dir() else []


def _journaled(run: Path) -> list[str]:
    """Paths in `checkpoint` events that still exist."""
    journal = run / "journal.jsonl"
    events = read_journal(journal)[0] if journal.is_file() else ()
    paths = [event.keys.get("path") for event in events if event.event == "checkpoint"]
    return [path for path in dict.fromkeys(paths) if isinstance(path, str) and _exists(run, path)]


def _exists(run: Path, path: str) -> bool:
    """Whether `path` is a valid path that exists and is not the run itself."""
    try:
        return (run / path).resolve() != run.resolve() and (run / path).exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _possible_checkpoint(run: Path, name: str) -> PossibleCheckpoint:
    try:
        inside(run, name, run.name or str(run))
    except UnreadableInput as error:
        return PossibleCheckpoint(run / name, plain(name), plain(error))
    return PossibleCheckpoint(run / name, plain(name))
