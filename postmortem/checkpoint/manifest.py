"""checkpoint.json: what a checkpoint says about itself, and the checksums that hold it to that. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from postmortem.atomic import write_bytes
from postmortem.errors import UnreadableInput
from postmortem.text import plain

NAME = "checkpoint.json"
FORMAT = 1
_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class CheckpointManifest:
    """The keys of checkpoint.json.

    role: rollback, recovery or best-k. step: updates done. contents: "full" or "parameters". sections: names of the
    state's top-level sections. world_size: number of ranks that saved. files: name → {"bytes", "sha256"} of every
    other file. hashes: rank → group → hash of that rank's parameters. saved: unix seconds. discarded: why a later
    resume set this checkpoint aside, None while it belongs to the run's effective history.
    """

    role: str
    step: int
    contents: Literal["full", "parameters"]
    sections: tuple[str, ...]
    world_size: int
    files: Mapping[str, Mapping[str, Any]]
    tensors: int
    torch: str
    saved: float
    hashes: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    metric: str | None = None
    value: float | None = None
    discarded: str | None = None

    @property
    def bytes(self) -> int:
        """Size of all files but checkpoint.json."""
        return sum(int(facts["bytes"]) for facts in self.files.values())


def write(folder: Path, manifest: CheckpointManifest) -> None:
    """Write `folder`/checkpoint.json, whole and synchronised or not at all."""
    keys = {key: value for key, value in vars(manifest).items() if value is not None}
    keys |= {"format": FORMAT, "sections": list(manifest.sections), "bytes": manifest.bytes}
    text = json.dumps({**keys, "checksum": _checksum(keys, str(folder))}, indent=1, sort_keys=True)
    write_bytes(folder / NAME, text.encode() + b"\n")


def read(folder: Path) -> CheckpointManifest:
    """The manifest in `folder`.

    Raises:
        UnreadableInput: there is none (the save was cut short), or it is not as it was written.
    """
    file = folder / NAME
    where = plain(file, 1000)
    try:
        if not file.is_file():  # nor a pipe that nobody writes to
            raise UnreadableInput("no file: the save was cut short, or this is none.", file=where)
        if file.stat().st_size > _LIMIT:
            raise UnreadableInput(f"larger than {_LIMIT >> 20} MiB: no manifest.", file=where)
        keys = json.loads(file.read_bytes())
    except OSError as error:
        raise UnreadableInput("cannot be read: the save was cut short, or this is none.", file=where) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableInput("damaged: no JSON.", file=where) from error
    if not isinstance(keys, dict):
        raise UnreadableInput("damaged: no object.", file=where)
    return _manifest(cast(dict[str, Any], keys), where)


def _manifest(keys: dict[str, Any], where: str) -> CheckpointManifest:
    if keys.pop("checksum", None) != _checksum(keys, where):
        raise UnreadableInput("damaged: it does not match its own checksum.", file=where)
    if keys.pop("format", None) != FORMAT:
        raise UnreadableInput("of another format; written by a newer version?", file=where)
    keys.pop("bytes", None)
    try:
        keys["sections"] = tuple(keys["sections"])
        said = CheckpointManifest(**keys)
    except (KeyError, TypeError) as error:
        raise UnreadableInput(f"lacks or has a key that it should not ({plain(error, 80)}).", file=where) from error
    if not _of_their_kind(vars(said)):
        raise UnreadableInput("holds values of the wrong kind.", file=where)
    return said


def _of_their_kind(keys: Mapping[str, Any]) -> bool:
    """Whether every value that anything is decided by is of the type that it should have."""
    files = keys["files"]
    return (
        all(isinstance(keys[name], str) for name in ("role", "contents"))
        and all(type(keys[name]) is int and 0 <= keys[name] < 2**63 for name in ("step", "world_size"))
        and all(isinstance(keys[name], (str, type(None))) for name in ("metric", "discarded"))
        and (keys["value"] is None or type(keys["value"]) in (int, float))
        and isinstance(files, dict)
        and all(_facts(facts) for facts in cast(dict[str, object], files).values())
    )


def _facts(facts: object) -> bool:
    """Whether `facts` are the size and the SHA-256 of a file."""
    if not isinstance(facts, dict):
        return False
    known = cast(dict[str, object], facts)
    return type(known.get("bytes")) is int and isinstance(known.get("sha256"), str)


def _checksum(keys: Mapping[str, Any], where: str) -> str:
    try:
        text = json.dumps(keys, sort_keys=True, separators=(",", ":"))
    except RecursionError as error:
        raise UnreadableInput("damaged: nested too deeply.", file=where) from error
    return hashlib.sha256(text.encode()).hexdigest()


def digest(file: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of one file."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
