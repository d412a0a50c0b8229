"""The checkpoints in a run's role folders: which is the newest, which ones retention removes, where `latest` leads."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from postmortem.atomic import move
from postmortem.checkpoint import manifest as manifests
from postmortem.checkpoint.manifest import CheckpointManifest
from postmortem.checkpoint.policy import Policy
from postmortem.errors import UnreadableInput
from postmortem.run.checkpoints import LATEST, ROLES
from postmortem.text import plain

_TEMPORARY = re.compile(r"\..+\.dcp\.tmp-\w+")


def step_name(step: int) -> str:
    """Directory name of a rollback or recovery checkpoint."""
    return f"step-{step:08d}.dcp"


def temporary(final: Path, token: str) -> Path:
    """The path at which `final` is written before it is renamed, or to which it is moved before it is removed."""
    return final.with_name(f".{final.name}.tmp-{token}")


@dataclass(frozen=True)
class StoredCheckpoint:
    """One complete checkpoint that this package wrote."""

    path: Path
    manifest: CheckpointManifest

    @property
    def role(self) -> str:
        return self.manifest.role

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def finite(self) -> bool:
        """Whether its save found no NaN or infinite element, or was by a version that did not look."""
        return not self.manifest.nonfinite

    @property
    def in_history(self) -> bool:
        """Whether it belongs to the effective history: no later resume set it aside."""
        return self.manifest.discarded is None


class CheckpointFolders:
    """The checkpoints of the run in `root`. Only rank 0 uses them."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def paths(self, *roles: str) -> list[Path]:
        """Everything that has the name of a checkpoint, complete or not."""
        return [path for role in roles for path in sorted((self._root / role).glob("[!.]*.dcp"))]

    def entries(self, *roles: str) -> list[StoredCheckpoint]:
        """Complete checkpoints by step, those that were set aside first. Other files there are ignored."""
        entries: list[StoredCheckpoint] = []
        for path in self.paths(*(roles or ROLES)):
            with suppress(UnreadableInput):
                entries.append(read_stored(path))
        return sorted(entries, key=lambda e: (e.in_history, e.step, e.role == "recovery"))

    def newest(self, without: Path | None = None) -> StoredCheckpoint | None:
        """The checkpoint that `latest` leads to, `without` excluded: the newest finite recovery checkpoint, or the
        newest finite and full rollback checkpoint while there is no recovery checkpoint."""
        usable = [e for e in self.entries() if e.in_history and e.finite and e.path != without]
        full = [e for e in usable if e.manifest.contents == "full"]
        recovery = [entry for entry in full if entry.role == "recovery"]
        return next(reversed(recovery or full), None)

    def to_remove(self, role: str, policy: Policy) -> list[StoredCheckpoint]:
        """What retention removes: all except the newest, or the best, that the policy keeps. Of two equal values, the
        earlier checkpoint is the better one. If none of those is finite, the newest that is stays as well."""
        entries = self.entries(role)
        if role == "best-k":
            entries.sort(key=lambda e: (e.in_history, -policy.better(e.manifest.value or 0.0), -e.step))
        older, kept = entries[: -policy.keep(role)], entries[-policy.keep(role) :]
        if not any(entry.finite and entry.in_history for entry in kept):
            finite = next((entry for entry in reversed(older) if entry.finite and entry.in_history), None)
            older = [entry for entry in older if entry is not finite]
        return older

    def update_latest(self, without: Path | None = None) -> None:
        """Let `latest` lead to the newest checkpoint except `without`, by one rename, or remove it."""
        link, newest = self._root / LATEST, self.newest(without)
        if newest is None:
            if link.is_symlink():
                link.unlink()
            return
        target = newest.path.relative_to(self._root)
        if link.is_symlink() and link.readlink() == target:
            return
        new_link = link.with_name(f".{LATEST}.tmp-{os.getpid()}")
        new_link.unlink(missing_ok=True)
        new_link.symlink_to(target, target_is_directory=True)
        move(new_link, link)

    def remove(self, path: Path) -> None:
        """Remove a checkpoint: by one rename, it is no checkpoint any more."""
        self.update_latest(without=path)
        removed = temporary(path, f"gone_{os.getpid()}")
        move(path, removed)
        shutil.rmtree(removed)

    def set_discarded(self, entries: Sequence[StoredCheckpoint], reason: str | None) -> None:
        """Write into checkpoints why they do not belong to the effective history, or with None that they do again, and
        update `latest`."""
        for entry in entries:
            manifests.write(entry.path, replace(entry.manifest, discarded=reason))
        self.update_latest()

    def remove_leftovers(self) -> None:
        """Remove what is left of saves that were cut short."""
        for role in ROLES:
            folder = self._root / role
            for path in folder.iterdir() if folder.is_dir() else ():
                if _TEMPORARY.fullmatch(path.name) and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
        for path in self._root.glob(f".{LATEST}.tmp-*"):
            path.unlink()


def read_stored(path: Path) -> StoredCheckpoint:
    """The checkpoint in `path`.

    Raises:
        UnreadableInput: there is no complete checkpoint, or its role or step does not match its path.
    """
    manifest = manifests.read(path)
    if path.parent.name in ROLES and not (
        manifest.role == path.parent.name and path.name.endswith(step_name(manifest.step))
    ):
        raise UnreadableInput(
            f"says that it is {plain(manifest.role, 40)} step {manifest.step}, which does not match its path.",
            file=plain(path, 1000),
        )
    return StoredCheckpoint(path, manifest)
