"""The checkpoints of a run directory, each looked at, whatever is wrong with one of them."""

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
    """A path that may be a checkpoint: `shown` is its name in the run, `refused` why it is not looked at."""

    path: Path
    shown: str
    refused: str = ""

    def inspect(self, *, deep: bool, on_progress: Progress = lambda done, total: None) -> Inspection:
        """Look at it, see `inspection.inspect`. What is refused has no kind."""
        if self.refused:
            role = self.path.parent.name
            return Inspection(self.path, "", role, step_of(self.path.name), False, 0, problems=(self.refused,))
        return inspect(self.path, deep=deep, on_progress=on_progress)


def candidates(run: Path) -> list[PossibleCheckpoint]:
    """What lies under rollback/, recovery/ and best-k/ and what the journal names; or `run` itself, a checkpoint.

    Raises:
        UnreadableInput: there is no checkpoint at all.
    """
    if not run.exists():
        raise UnreadableInput("no such file or directory.", file=plain(run, 1000))
    if run.is_file() or (run / ".metadata").exists() or any(run.glob("*.distcp")):
        return [PossibleCheckpoint(run, plain(run.name))]
    named = [f"{role}/{entry.name}" for role in ROLES for entry in _entries(run / role)]
    found = {name: _candidate(run, name) for name in (*named, *_journalled(run))}
    seen = {one.path.resolve(): one for one in reversed(found.values()) if one.path.exists() or one.refused}
    if not seen:
        roles = ", ".join(f"{role}/" for role in ROLES)
        raise UnreadableInput(
            f"holds no checkpoints: nothing under {roles} and none named by journal.jsonl.",
            file=plain(run, 1000),
            hint="Give a run directory, or one checkpoint.",
        )
    return sorted(seen.values(), key=lambda one: (step_of(one.path.name) or 0, one.shown))


def latest(run: Path) -> Path | None:
    """Where the run's link `latest` leads; None where there is none, or where it leads out of the run."""
    link = run / LATEST
    if not link.is_symlink():
        return None
    try:
        return inside(run, LATEST, LATEST)
    except UnreadableInput:
        return None


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if step_of(entry.name) is not None] if folder.is_dir() else []


def _journalled(run: Path) -> list[str]:
    """Paths that `checkpoint` events name and that are still there."""
    journal = run / "journal.jsonl"
    events = read_journal(journal)[0] if journal.is_file() else ()
    paths = [event.keys.get("path") for event in events if event.event == "checkpoint"]
    return [path for path in dict.fromkeys(paths) if isinstance(path, str) and _is_there(run, path)]


def _is_there(run: Path, path: str) -> bool:
    """Whether `path` is a path at all, and of something that is still there, the run itself aside."""
    try:
        return (run / path).resolve() != run.resolve() and (run / path).exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _candidate(run: Path, name: str) -> PossibleCheckpoint:
    try:
        inside(run, name, run.name or str(run))
    except UnreadableInput as error:
        return PossibleCheckpoint(run / name, plain(name), plain(error))
    return PossibleCheckpoint(run / name, plain(name))
