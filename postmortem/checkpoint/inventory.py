"""Finds the checkpoints of a run directory; damage of one does not hide the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from postmortem.checkpoint.inspection import Inspection, Progress, inspect
from postmortem.errors import UnreadableInput
from postmortem.run.checkpoints import LATEST, ROLES, named_checkpoints, role_of, step_in_name
from postmortem.run.journal import EventLog, read_journal
from postmortem.run.manifest import inside
from postmortem.run.places import Places
from postmortem.text import plain


@dataclass(frozen=True)
class PossibleCheckpoint:
    """A path that may be a checkpoint: `shown` is its name in the run, `refused` the reason why it is not read."""

    path: Path
    shown: str
    refused: str = ""

    def inspect(
        self, *, deep: bool, pieces: bool = True, on_progress: Progress = lambda done, total: None
    ) -> Inspection:
        """Inspect it, see `inspection.inspect`. A refused path has no kind."""
        if self.refused:
            role, step = role_of(self.path), step_in_name(self.path.name)
            return Inspection(self.path, "", role, step, False, 0, problems=(self.refused,))
        return inspect(self.path, deep=deep, pieces=pieces, on_progress=on_progress)


def possible_checkpoints(run: Path, journal: EventLog | None = None) -> list[PossibleCheckpoint]:
    """What has the name of a checkpoint in `run`, see `named_checkpoints`, and what the journal names; or `run` itself.
    The journal is read unless it is given.

    Raises:
        UnreadableInput: there is no checkpoint at all.
    """
    if not run.exists():
        raise UnreadableInput("no such file or directory.", file=plain(run, 1000))
    if run.is_file() or (run / ".metadata").exists() or any(run.glob("*.distcp")):
        return [PossibleCheckpoint(run, plain(run.name))]
    places = Places(run)
    by_path: dict[str, PossibleCheckpoint] = {}
    for name in dict.fromkeys((*named_checkpoints(run), *_journaled(run, places, journal))):
        target, checkpoint = _possible_checkpoint(run, name, places)
        if checkpoint is not None:
            by_path.setdefault(target, checkpoint)
    if not by_path:
        roles = ", ".join(f"{role}/" for role in ROLES)
        raise UnreadableInput(
            f"has no checkpoints: nothing under {roles}, nothing named like recovery-00000500, and journal.jsonl names "
            "none.",
            file=plain(run, 1000),
            hint="Give a run directory, or one checkpoint.",
        )
    return sorted(by_path.values(), key=lambda checkpoint: (step_in_name(checkpoint.path.name) or 0, checkpoint.shown))


def latest(run: Path) -> Path | None:
    """The checkpoint that the link `latest` leads to; None if there is no link, or if it leads out of the run."""
    link = run / LATEST
    if not link.is_symlink():
        return None
    try:
        return inside(run, LATEST, LATEST)
    except UnreadableInput:
        return None


def _journaled(run: Path, places: Places, journal: EventLog | None) -> Iterator[str]:
    """Paths in `checkpoint` events that exist and are not the run itself."""
    file = run / "journal.jsonl"
    if journal is None:
        journal = read_journal(file)[0] if file.is_file() else EventLog()
    for event in journal.of("checkpoint"):
        path = event.keys.get("path")
        if isinstance(path, str) and _exists(run, path, places):
            yield path


def _exists(run: Path, path: str, places: Places) -> bool:
    try:
        target, exists = places.find(path, run.name)
    except UnreadableInput:  # it is listed as refused, if it is there
        with suppress(OSError, ValueError):
            return (run / path).exists()
        return False
    return exists and target != places.base


def _possible_checkpoint(run: Path, name: str, places: Places) -> tuple[str, PossibleCheckpoint | None]:
    """(the path to which `name` leads, the checkpoint; None where there is nothing)."""
    try:
        target, exists = places.find(name, run.name or str(run))
    except UnreadableInput as error:
        return name, PossibleCheckpoint(run / name, plain(name), plain(error))
    return target, PossibleCheckpoint(run / name, plain(name)) if exists else None
