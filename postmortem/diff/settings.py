"""Lists the settings that differ in run.json of two runs: effective config, code, packages, environment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from postmortem.arithmetic import ARITHMETIC
from postmortem.diff.model import Group, Setting
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.small_file import read_bytes

SUMS = frozenset((*ARITHMETIC, "numpy", "world_size", "dtype", "devices"))
"""Keys that a sum of floats may depend on."""

_FACTS = ("program", "seed", "dtype", "world_size", "tokens_per_step", "vocab_size", "hashes")
_ABSENT = object()


def differing_settings(a: Run, b: Run) -> tuple[Setting, ...]:
    """Every key that differs, dotted where it is nested, in order of name.

    A group that one run did not record at all is left out.
    """
    settings: list[Setting] = []
    groups: tuple[tuple[Group, dict[str, Any], dict[str, Any]], ...] = (
        ("config", dict(a.manifest.config), dict(b.manifest.config)),
        ("code", _code(a), _code(b)),
        ("packages", _mapping(a, "packages"), _mapping(b, "packages")),
        ("environment", _environment(a), _environment(b)),
        ("run", _facts(a), _facts(b)),
    )
    for group, values_a, values_b in groups:
        if values_a and values_b:
            settings += [Setting(group, key, *pair) for key, pair in _different(values_a, values_b)]
    return tuple(settings)


def unrecorded(a: Run, b: Run) -> tuple[str, ...]:
    """One sentence for each group that cannot be compared, because a run did not record it."""
    sentences: list[str] = []
    for group, values_a, values_b in (
        ("effective config", a.manifest.config, b.manifest.config),
        ("code", _code(a), _code(b)),
        ("packages", _mapping(a, "packages"), _mapping(b, "packages")),
        ("environment", a.manifest.environment, b.manifest.environment),
    ):
        lacking = [letter for letter, values in (("a", values_a), ("b", values_b)) if not values]
        if lacking:
            reason = "recorded by neither a nor b" if len(lacking) == 2 else f"not recorded by {lacking[0]}"
            sentences.append(f"{group}: {reason}")
    return tuple(sentences)


def _facts(run: Run) -> dict[str, Any]:
    """The facts in run.json about the run as a whole, without keys that its config has as well, such as the seed."""
    config = _mapping(run, "config")
    return {key: run.manifest.raw[key] for key in _FACTS if key in run.manifest.raw and key not in config}


def _environment(run: Run) -> dict[str, Any]:
    ranks = run.manifest.raw.get("ranks")
    environment = {**run.manifest.environment, **_mapping(run, "variables")}
    if isinstance(ranks, dict):
        records = [rank for rank in cast("dict[str, Any]", ranks).values() if isinstance(rank, dict)]
        devices = {str(rank["device"]).partition(" ")[2] for rank in records if rank.get("device")}
        environment |= {"devices": sorted(devices)} if devices else {}
    return environment


def _code(run: Run) -> dict[str, Any]:
    """Commit and branch, and the uncommitted patch by its content, because the file's name differs in each attempt."""
    git = _mapping(run, "git")
    code = {key: git[key] for key in ("commit", "branch") if key in git}
    name = git.get("patch")
    if run.root is not None and isinstance(name, str):
        file = inside(run.root, name, "run.json: git.patch")
        if file.is_file():
            code["patch"] = f"sha256 {hashlib.sha256(read_bytes(file)).hexdigest()[:12]}"
    return code


def _mapping(run: Run, key: str) -> dict[str, Any]:
    value = run.manifest.raw.get(key)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    flat_a, flat_b = dict(_flat(a)), dict(_flat(b))
    for key in sorted(flat_a.keys() | flat_b.keys()):
        pair = flat_a.get(key, _ABSENT), flat_b.get(key, _ABSENT)
        if pair[0] != pair[1]:
            yield key, (None if pair[0] is _ABSENT else pair[0], None if pair[1] is _ABSENT else pair[1])


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, plain value); a list is one value unless it contains mappings."""
    if isinstance(value, Mapping):
        for name, inner in cast("Mapping[str, Any]", value).items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in cast("Sequence[Any]", value)):
        for i, inner in enumerate(cast("Sequence[Any]", value)):
            yield from _flat(inner, f"{key}[{i}]")
    else:
        yield key, value
