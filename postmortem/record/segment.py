"""Opens or continues a run directory: counts the attempt, completes run.json, and finds what changed since the last."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from postmortem.errors import MissingExtra, UnreadableInput, UsageError
from postmortem.record import provenance as origin
from postmortem.record.lock import WriterLock, attempt_of_writer
from postmortem.record.writer import RunWriter, json_value, update_manifest
from postmortem.run.manifest import read_mapping
from postmortem.run.parts import parts, tail_key, tails
from postmortem.run.rows import LineReport, read_objects
from postmortem.text import plain

Changes = list[tuple[str, dict[str, Any]]]
_PATIENCE_S = 60.0
_COMPARED = ("environment", "git", "world_size")
_NAMES_ONLY = ("git.patch", "git.patch_truncated")  # the patch of each attempt has a file of its own
_opened: dict[Path, int] = {}


@dataclass(frozen=True)
class RunDetails:
    """What the caller says about the run; `attempt` only if something else counts attempts."""

    rank: int
    world_size: int
    attempt: int | None
    config: Mapping[str, Any] | None
    manifest: Mapping[str, Any] | None
    provenance: bool


def open_segment(run: Path, facts: RunDetails) -> tuple[WriterLock, RunWriter]:
    """Make `run` if it does not exist, take its lock and count the attempt.

    Raises:
        UsageError: another process writes this rank, or the path is a file.
        OSError: the directory cannot be made or written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{plain(run, 1000)}: there is a file where the run's directory should be") from error
    lock = WriterLock(run, facts.rank)
    try:
        attempt = agreed_attempt(run, facts.rank) if facts.attempt is None else facts.attempt
        lock.announce(attempt)
        return lock, RunWriter(run, attempt=attempt, rank=facts.rank)
    except BaseException:
        lock.release()
        raise


def complete_manifest(run: Path, facts: RunDetails, attempt: int) -> Changes:
    """Add what is known to run.json; return the events about what changed against it.

    Keys that are there already stay. Only rank 0 writes more than its own entry in `ranks`. Raises OSError or
    UnreadableInput if run.json cannot be completed.
    """
    keys: dict[str, Any] = {}
    if facts.rank == 0:
        keys = {"world_size": facts.world_size, "hashes": _hashes(), "environment": origin.environment()}
        if facts.provenance:
            keys |= origin.provenance(run, attempt)
        keys |= origin.redacted(dict(facts.manifest or {}))
        if facts.config is not None:
            keys["config"] = origin.redacted(facts.config)
        keys = cast(dict[str, Any], json_value(keys))
    entry: dict[str, Any] = {"attempt": attempt}
    if facts.provenance:
        entry |= {"host": origin.host(), "device": origin.device(), "pid": os.getpid()}
    before = update_manifest(run, lambda old: {**old, **keys, **_with_rank_entry(old, facts.rank, entry)})
    if attempt == 0:
        return []
    events: Changes = []
    environment = {
        key: pair
        for name in _COMPARED
        for key, pair in _differences({name: before.get(name)}, {name: keys.get(name)}).items()
        if key not in _NAMES_ONLY
        and None not in pair  # first known now, such as the version of a package that was not imported then: no change
    }
    if environment:
        events.append(("environment_change", {"changed": environment}))
    if "config" in before and "config" in keys:
        for key, (old, new) in _differences({"": before["config"]}, {"": keys["config"]}).items():
            events.append(("config_change", {"key": key.removeprefix("."), "old": old, "new": new}))
    return events


def name_device(run: Path, rank: int, device: str) -> None:
    """Add the device of `rank` to its entry in run.json. Raises OSError or UnreadableInput."""
    update_manifest(run, lambda old: {**old, **_with_rank_entry(old, rank, {"device": origin.named_device(device)})})


def _with_rank_entry(manifest: Mapping[str, Any], rank: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The key `ranks` of run.json, with `entry` added to what it says about `rank`."""
    ranks = _object(manifest.get("ranks"))
    return {"ranks": {**ranks, str(rank): {**_object(ranks.get(str(rank))), **entry}}}


def _object(value: object) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _hashes() -> dict[str, str]:
    """Names of the hash functions in use; empty if the extra that installs them is missing."""
    try:
        from postmortem.record.hashing import BATCH_HASH, LOCAL_STATE_HASH

        names = {"batch": BATCH_HASH, "state_local": LOCAL_STATE_HASH}
        if "torch" in sys.modules:  # without torch there is no state
            from postmortem.record.state_hash import STATE_HASH

            names["state"] = STATE_HASH
    except MissingExtra:
        return {}
    return names


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """{dotted key: [old, new]} of what differs between two nested mappings; None where a key is absent."""
    differences: dict[str, list[Any]] = {}
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differences |= _differences(cast(Mapping[str, Any], old), cast(Mapping[str, Any], new), f"{prefix}{key}.")
        elif old != new:
            differences[f"{prefix}{key}"] = [old, new]
    return differences


def ranks_of_process() -> tuple[int, int]:
    """(rank, world size): torch.distributed's if it is initialized, else RANK and WORLD_SIZE, else (0, 1)."""
    dist = _distributed()
    if dist is not None:
        return dist.get_rank(), dist.get_world_size()
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return (int(rank), int(size)) if rank.isdecimal() and size.isdecimal() and int(rank) < int(size) else (0, 1)


def agreed_attempt(run: Path, rank: int) -> int:
    """The number of the attempt that begins now: one more than the highest so far, the same on all ranks.

    If torch.distributed is initialized, rank 0 counts and shares the number through the group's store. That is no
    collective, so a recorder on rank 0 alone blocks nobody. Otherwise each rank counts its own openings, unless rank 0
    is writing here already.
    """
    store = _store()
    if store is None:
        of_rank_0 = attempt_of_writer(run, 0) if rank else None
        return _highest_attempt(run, rank) + 1 if of_rank_0 is None else of_rank_0
    from datetime import timedelta

    _opened[run] = _opened.get(run, -1) + 1
    key = f"postmortem/attempt/{run.resolve()}/{_opened[run]}"
    if rank == 0:
        attempt = _highest_attempt(run, 0) + 1
        store.set(key, str(attempt))
        return attempt
    try:
        store.wait([key], timedelta(seconds=_PATIENCE_S))
        return int(store.get(key))
    except (RuntimeError, ValueError):  # rank 0 records nothing
        return _highest_attempt(run, rank) + 1


def _highest_attempt(run: Path, rank: int) -> int:
    """The highest attempt that `rank` has begun in the directory; -1 if it never wrote."""
    file = run / "run.json"
    try:
        ranks = read_mapping(file).get("ranks") if file.exists() else None
    except UnreadableInput:  # `complete_manifest` reports it
        ranks = None
    attempts = [-1]
    if isinstance(ranks, dict):
        entry = cast(dict[str, Any], ranks).get(str(rank))
        if isinstance(entry, dict):
            attempts.append(_attempt_in(cast(dict[str, Any], entry)))
    elif (run / "metrics").is_dir():  # written by hand or by `RunWriter`: only the parts know
        attempts += [_highest_in(part) for part in parts(run / "metrics")]
    for folder in (run / "metrics", run / "batches"):
        if folder.is_dir():
            attempts += [a for a, r in map(tail_key, tails(folder)) if r == rank]
    journal = run / "journal.jsonl"
    if journal.exists():
        events = read_objects(journal, LineReport(journal.name), strict_text=False)
        attempts += [_attempt_in(event) for _, event in events if event.get("rank", 0) == rank]
    return max(attempts)


def _attempt_in(entry: Mapping[str, Any]) -> int:
    attempt = entry.get("attempt")
    return attempt if isinstance(attempt, int) else -1


def _highest_in(part: Path) -> int:
    from postmortem.run.parquet import parquet_part

    table = parquet_part(part, part.name, frozenset())
    bounds = table.bounds("attempt") if "attempt" in table.names else None
    return 0 if bounds is None or bounds.high is None else int(bounds.high)


def _distributed() -> Any:
    """`torch.distributed` if it is imported and initialized, else None."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def _store() -> Any:
    """The key-value store of the default process group; None where this version of torch does not give access."""
    dist = _distributed()
    if dist is None or dist.get_world_size() == 1:
        return None
    get_store = getattr(dist.group.WORLD, "get_group_store", None)
    return None if get_store is None else get_store()
