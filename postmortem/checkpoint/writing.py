"""Writes one checkpoint to disk: complete under its name, or not at all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from postmortem.atomic import move, sync, sync_folder
from postmortem.checkpoint import _dcp
from postmortem.checkpoint import manifest as manifests
from postmortem.checkpoint.document import inline_nonfinite
from postmortem.checkpoint.finite import merged, nonfinite_in
from postmortem.checkpoint.inspection import trained
from postmortem.checkpoint.manifest import CheckpointManifest
from postmortem.checkpoint.ranks import Ranks
from postmortem.checkpoint.retention import temporary
from postmortem.checkpoint.staging import Staged

Hashes: TypeAlias = Callable[[Mapping[str, Tensor]], Mapping[str, str]]


@dataclass(frozen=True)
class SaveJob:
    """One save. `paths` are the final directories, each in its role's folder: the first is written, the others share
    its files by hard links. `staged` is the state, or the error in reading it."""

    step: int
    paths: tuple[Path, ...]
    contents: Literal["full", "parameters"]
    staged: Staged | Exception
    metric: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class _Report:
    """What one rank wrote."""

    files: dict[str, manifests.FileDigest]
    hashes: dict[str, str]
    nonfinite: dict[str, int]


def write(job: SaveJob, ranks: Ranks, token: str, hashes: Hashes) -> CheckpointManifest:
    """Write a checkpoint, all ranks together; returns the manifest of its first directory.

    Raises:
        Exception: it could not be written, on this rank or on another. Nothing of it stays on disk.
    """
    folders = [temporary(path, token) for path in job.paths]
    try:
        ranks.run_on_all_ranks(lambda: _prepare(job, folders[0], ranks))
        assert isinstance(job.staged, Staged)
        staged = job.staged
        _dcp.write(folders[0], staged.tensors, ranks)
        reports = ranks.run_on_all_ranks(lambda: _write_own(staged, folders[0], ranks, hashes))
        return ranks.run_on_rank_0(lambda: _complete(job, staged, folders, reports))
    except BaseException:
        if ranks.first:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        raise


def _prepare(job: SaveJob, folder: Path, ranks: Ranks) -> None:
    if isinstance(job.staged, Exception):
        raise job.staged
    if ranks.first:
        folder.mkdir(parents=True)


def _write_own(staged: Staged, folder: Path, ranks: Ranks, hashes: Hashes) -> _Report:
    """Write this rank's document; return the checksums of what this rank wrote."""
    file = folder / f"state-{ranks.rank}.json"
    with file.open("x", encoding="ascii") as stream:
        json.dump({"format": manifests.FORMAT, "rank": ranks.rank, "state": staged.document}, stream)
        stream.flush()
        sync(stream.fileno())
    written = [file, *folder.glob(f"__{ranks.rank}_*"), *([folder / ".metadata"] if ranks.first else [])]
    digests = {path.name: manifests.digest(path) for path in sorted(written)}
    inline = inline_nonfinite(staged.document)
    nonfinite = nonfinite_in(staged.tensors) | {name: inline[name] for name in trained(inline, staged.document)}
    return _Report(digests, dict(hashes(staged.local)), nonfinite)


def _complete(job: SaveJob, staged: Staged, folders: list[Path], reports: list[_Report]) -> CheckpointManifest:
    """Turn the temporary directories into checkpoints; rank 0 does this last."""
    files = {name: digest for report in reports for name, digest in report.files.items()}
    for folder in folders[1:]:
        folder.mkdir(parents=True)
        for name in files:
            _link(folders[0] / name, folder / name)
    written: list[CheckpointManifest] = []
    for folder, path in zip(folders, job.paths, strict=True):
        manifest = CheckpointManifest(
            role=path.parent.name,
            step=job.step,
            contents=job.contents,
            sections=tuple(staged.document),
            world_size=len(reports),
            files=files,
            tensors=staged.count,
            torch=torch.__version__,
            saved=time.time(),
            hashes={str(rank): report.hashes for rank, report in enumerate(reports)},
            metric=job.metric,
            value=job.value,
            nonfinite=merged(report.nonfinite for report in reports),
        )
        manifests.write(folder, manifest)
        written.append(manifest)
        sync_folder(folder)
    for folder, path in zip(folders, job.paths, strict=True):
        if path.exists():  # damaged, or set aside by a resume; since then, `latest` leads to another checkpoint
            replaced = folder.with_name(f"{folder.name}_gone")
            move(path, replaced)
            shutil.rmtree(replaced)
        move(folder, path)
        sync_folder(path.parent)
    return written[0]


def _link(source: Path, target: Path) -> None:
    """Give the file a second name; copy it if the file system has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
