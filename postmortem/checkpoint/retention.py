"""What lies in a run's role folders: which checkpoint is the newest, which are surplus, where `latest` leads."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

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
    """Where `final` is written before it is renamed, or taken to before it is removed."""
    return final.with_name(f".{final.name}.tmp-{token}")


@dataclass(frozen=True)
class StoredCheckpoint:
    """One complete checkpoint of this package's making."""

    path: Path
    manifest: CheckpointManifest

    @property
    def role(self) -> str:
        return self.manifest.role

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def alive(self) -> bool:
        """Whether it belongs to the effective history: no later resume set it aside."""
        return self.manifest.discarded is None


class CheckpointFolders:
    """The checkpoints of the run in `root`. Only rank 0 touches them."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def paths(self, *roles: str) -> list[Path]:
        """What has the name of a checkpoint, complete or not."""
        return [path for role in roles for path in sorted((self._root / role).glob("[!.]*.dcp"))]

    def entries(self, *roles: str) -> list[StoredCheckpoint]:
        """Complete checkpoints by step, those that were set aside first. What else lies there is left alone."""
        found: list[StoredCheckpoint] = []
        for path in self.paths(*(roles or ROLES)):
            with suppress(UnreadableInput):
                found.append(read_stored(path))
        return sorted(found, key=lambda e: (e.alive, e.step, e.role == "recovery"))

    def newest(self, leaving: Path | None = None) -> StoredCheckpoint | None:
        """What `latest` leads to, but for `leaving`: the newest recovery checkpoint, or the newest full rollback while
        there is none."""
        full = [e for e in self.entries() if e.alive and e.manifest.contents == "full" and e.path != leaving]
        recovery = [entry for entry in full if entry.role == "recovery"]
        return next(reversed(recovery or full), None)

    def surplus(self, role: str, policy: Policy) -> list[StoredCheckpoint]:
        """What retention removes: all but the newest, or the best, that the policy keeps. The earlier of two equals
        is the better one."""
        entries = self.entries(role)
        if role == "best-k":
            entries.sort(key=lambda e: (e.alive, -policy.better(e.manifest.value or 0.0), -e.step))
        return entries[: -policy.keep(role)]

    def point_latest(self, leaving: Path | None = None) -> None:
        """Let `latest` lead to the newest but `leaving`, by one rename; where there is none, remove it."""
        link, newest = self._root / LATEST, self.newest(leaving)
        if newest is None:
            if link.is_symlink():
                link.unlink()
            return
        target = newest.path.relative_to(self._root)
        if link.is_symlink() and link.readlink() == target:
            return
        made = link.with_name(f".{LATEST}.tmp-{os.getpid()}")
        made.unlink(missing_ok=True)
        made.symlink_to(target, target_is_directory=True)
        made.replace(link)

    def remove(self, path: Path) -> None:
        """Remove a checkpoint: at one instant it is complete, at the next it is no checkpoint any more."""
        self.point_latest(leaving=path)
        gone = temporary(path, f"gone_{os.getpid()}")
        path.rename(gone)
        shutil.rmtree(gone)

    def mark(self, entries: Sequence[StoredCheckpoint], discarded: str | None) -> None:
        """Say in checkpoints why they are no part of the effective history, or with None that they are part of it
        again, and let `latest` lead to the newest that is."""
        for entry in entries:
            manifests.write(entry.path, replace(entry.manifest, discarded=discarded))
        self.point_latest()

    def sweep(self) -> None:
        """Remove what saves that were cut short left behind."""
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
        UnreadableInput: none that is complete lies there, or one of another role or step than its place says.
    """
    manifest = manifests.read(path)
    if path.parent.name in ROLES and not (
        manifest.role == path.parent.name and path.name.endswith(step_name(manifest.step))
    ):
        raise UnreadableInput(
            f"says that it is {plain(manifest.role, 40)} step {manifest.step}, which is not its name.",
            file=plain(path, 1000),
        )
    return StoredCheckpoint(path, manifest)
