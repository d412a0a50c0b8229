"""run.json: what a run says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from postmortem.errors import UnreadableInput
from postmortem.jsonio import read_object
from postmortem.run.columns import is_canonical
from postmortem.run.naming import name_list
from postmortem.small_file import parse_yaml, read_text
from postmortem.text import plain

FORMAT_VERSION = 1  # of docs/run-format.md
MANIFESTS = ("run.json", "run.yaml", "run.yml")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Manifest:
    """Typed access to run.json; None (or an empty mapping) where a key is absent or of another type than documented."""

    id: str | None = None
    seed: int | None = None
    dtype: str | None = None
    world_size: int | None = None
    program: str | None = None
    vocab: str | None = None
    vocab_size: int | None = None
    tokens_per_step: int | None = None
    config: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    environment: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    lineage: Mapping[str, Any] | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    raw: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


def manifest_file(root: Path) -> Path | None:
    """The manifest of the run directory `root`; None where there is none."""
    return next((root / name for name in MANIFESTS if (root / name).exists()), None)


def read_manifest(file: Path, root: Path) -> tuple[Manifest, list[str]]:
    """(manifest, notes) of run.json or run.yaml.

    Raises:
        UnreadableInput: no JSON or YAML object, or the vocabulary that it names is outside `root`.
    """
    raw = read_mapping(file)
    notes: list[str] = []

    def take(key: str, kind: type | tuple[type, ...]) -> Any:
        value = raw.get(key)
        if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        notes.append(
            f"{file.name}: {key} is a {type(value).__name__}, not the type that the format says, and was ignored"
        )
        return None

    def take_int(key: str) -> int | None:
        value = take(key, (int, float))
        return int(value) if value is not None and abs(value) < 2**63 and value == int(value) else None

    version = raw.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        notes.append(
            f"{file.name}: format_version {plain(version, 20)} is not {FORMAT_VERSION}: read as far as it is known"
        )
    vocab = take("vocab", str)
    if vocab is not None:
        inside(root, vocab, f"{file.name}: vocab")
    columns = {str(name): str(canonical) for name, canonical in (take("columns", dict) or {}).items()}
    unknown = [name for name, canonical in columns.items() if not is_canonical(canonical)]
    if unknown:
        notes.append(f"{file.name}: columns maps {name_list(unknown)} to no canonical column: ignored")
    config, lineage = take("config", dict) or {}, take("lineage", dict)
    seed = take_int("seed")
    ident = take("id", str)
    manifest = Manifest(
        id=plain(ident) if ident else None,
        seed=config["seed"] if seed is None and type(config.get("seed")) is int else seed,
        dtype=take("dtype", str),
        world_size=take_int("world_size"),
        program=take("program", str),
        vocab=vocab,
        vocab_size=take_int("vocab_size"),
        tokens_per_step=take_int("tokens_per_step"),
        config=MappingProxyType(config),
        environment=MappingProxyType(take("environment", dict) or {}),
        lineage=None if lineage is None else MappingProxyType(lineage),
        columns=MappingProxyType({name: canonical for name, canonical in columns.items() if name not in unknown}),
        raw=MappingProxyType(raw),
    )
    return manifest, notes


def inside(root: Path, named: str, where: str) -> Path:
    """The path `root / named`, resolved; `where` names the place that names it, for the message.

    Raises:
        UnreadableInput: it is outside `root`, by `..`, an absolute path or a link, or no file can have that name.
    """
    try:
        target = (root / named).resolve()
        base = root.resolve()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            target.lstat()  # a name that is too long for this system
    except (OSError, RuntimeError, ValueError) as error:
        raise UnreadableInput(f"{plain(named)} is no valid path.", file=where) from error
    if not target.is_relative_to(base):
        raise UnreadableInput(
            f"{plain(named)} leads outside the run.",
            file=where,
            hint="A run names files inside its own directory only.",
        )
    return target


def read_mapping(file: Path) -> dict[str, Any]:
    """The object in run.json or run.yaml.

    Raises:
        UnreadableInput: there is none in it.
    """
    if file.suffix == ".json":
        return read_object(file)
    name = plain(file, 1000)
    text = read_text(file)
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UnreadableInput(f"cannot be read ({plain(error, 120)}).", file=name) from error
    if not isinstance(value, dict):
        raise UnreadableInput("expected an object of keys and values.", file=name)
    return cast(dict[str, Any], value)
