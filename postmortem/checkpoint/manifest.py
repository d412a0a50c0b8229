"""checkpoint.json: what a checkpoint says about itself, with the checksums of its files. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from postmortem.atomic import write_text
from postmortem.errors import UnreadableInput
from postmortem.jsonio import as_json, read_record, strict_json
from postmortem.text import plain

NAME = "checkpoint.json"
FORMAT = 1


@dataclass(frozen=True)
class FileDigest:
    """Size and SHA-256 (hex) of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointManifest:
    """The keys of checkpoint.json.

    role: rollback, recovery or best-k. step: number of updates done. contents: "full" or "parameters". sections: names
    of the state's top-level sections. world_size: number of ranks that saved. files: name → digest of every other file.
    hashes: rank → group → hash of that rank's parameters. saved: unix seconds. discarded: why a later resume set this
    checkpoint aside; None while it belongs to the run's effective history. nonfinite: tensor → number of NaN and
    infinite elements at the save, for tensors that have any; None if an older version saved it, which did not look.
    """

    role: str
    step: int
    contents: Literal["full", "parameters"]
    sections: tuple[str, ...]
    world_size: int
    files: Mapping[str, FileDigest]
    tensors: int
    torch: str
    saved: float
    hashes: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    metric: str | None = None
    value: float | None = None
    discarded: str | None = None
    nonfinite: Mapping[str, int] | None = None

    @property
    def bytes(self) -> int:
        """Size of all files except checkpoint.json."""
        return sum(digest.bytes for digest in self.files.values())


def write(folder: Path, manifest: CheckpointManifest) -> None:
    """Write `folder`/checkpoint.json, completely and synchronized to disk, or not at all."""
    keys = {key: value for key, value in as_json(manifest).items() if value is not None}
    keys |= {"format": FORMAT, "bytes": manifest.bytes}
    write_text(folder / NAME, strict_json({**keys, "checksum": _checksum(keys, str(folder))}, sort_keys=True))


def read(folder: Path) -> CheckpointManifest:
    """The manifest in `folder`.

    Raises:
        UnreadableInput: there is none, because the save was cut short, or it was changed since it was written.
    """
    file = folder / NAME
    where = plain(file, 1000)
    try:
        return read_record(
            CheckpointManifest, file, "the manifest of a checkpoint", check=lambda keys: _check(keys, where)
        )
    except UnreadableInput as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UnreadableInput("no file: the save was cut short, or this is no checkpoint.", file=where) from error
        raise


def _check(keys: dict[str, Any], where: str) -> None:
    """Refuse what does not match its checksum, has another format, unknown keys, or impossible numbers."""
    keys = dict(keys)
    if keys.pop("checksum", None) != _checksum(keys, where):
        raise UnreadableInput("damaged: it does not match its own checksum.", file=where)
    if keys.pop("format", None) != FORMAT:
        raise UnreadableInput("has another format; was it written by a newer version?", file=where)
    unknown = keys.keys() - {"bytes", *(field.name for field in fields(CheckpointManifest))}
    if unknown:
        raise UnreadableInput(f"has a key that is not known: {plain(min(unknown), 80)}.", file=where)
    for name in ("step", "world_size"):
        value = keys.get(name)
        if isinstance(value, int) and not 0 <= value < 2**63:
            raise UnreadableInput(f"{name} is {plain(value, 80)}.", file=where)


def _checksum(keys: Mapping[str, Any], where: str) -> str:
    try:
        text = json.dumps(keys, sort_keys=True, separators=(",", ":"))
    except RecursionError as error:
        raise UnreadableInput("damaged: nested too deeply.", file=where) from error
    return hashlib.sha256(text.encode()).hexdigest()


def digest(file: Path) -> FileDigest:
    """Size and SHA-256 of one file."""
    with file.open("rb") as stream:
        return FileDigest(file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
