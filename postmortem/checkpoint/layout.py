"""Where the tensors of a checkpoint lie, read from its tables alone: DCP directories and torch.save files.

Every claim of a table is held against the files before anybody reads what it points to.
"""

from __future__ import annotations

import math
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

from postmortem.checkpoint import zips
from postmortem.checkpoint.allowlist import InertDType, InertObject, InertStorage, InertStorageType, InertTensor, sizes
from postmortem.checkpoint.pickles import LIMIT, load_at, safe_load
from postmortem.checkpoint.streaming import FileSpan, TensorBytes, item_size
from postmortem.errors import UnreadableInput
from postmortem.run.manifest import inside
from postmortem.text import plain

METADATA = ".metadata"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DEEPEST = 64
_LONGEST_NAME = 500


@dataclass
class Layout:
    """What a checkpoint's tables say: `pieces` by file, sorted and apart; `tensors` and `others` by dotted name."""

    pieces: dict[Path, list[FileSpan]] = field(default_factory=dict[Path, list[FileSpan]])
    tensors: set[str] = field(default_factory=set[str])
    others: set[str] = field(default_factory=set[str])
    problems: list[str] = field(default_factory=list[str])


def regular(path: Path, shown: str) -> BinaryIO:
    """A file opened for reading, if it is one: no directory, device or pipe.

    Raises:
        UnreadableInput: it is not there, is none, or may not be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableInput("not a regular file.", file=shown)
        return path.open("rb")
    except FileNotFoundError as error:
        raise UnreadableInput("missing.", file=shown) from error
    except (OSError, ValueError) as error:
        raise UnreadableInput(f"cannot be read ({plain(error, 80)}).", file=shown) from error


def read_small(path: Path, shown: str, limit: int = LIMIT) -> bytes:
    """All of a small file. Raises UnreadableInput where it is larger than `limit` bytes, or `regular` refuses it."""
    with regular(path, shown) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UnreadableInput(f"larger than {limit >> 20} MiB, which such a file never is.", file=shown)
    return data


def dcp_layout(folder: Path) -> Layout:
    """The layout of a torch.distributed.checkpoint directory.

    Raises:
        UnreadableInput: `.metadata` cannot be read or is none. What is wrong with one piece is a problem instead.
    """
    metadata = safe_load(read_small(folder / METADATA, METADATA), file=METADATA)
    declared = metadata.get("state_dict_metadata") if isinstance(metadata, InertObject) else None
    stored = metadata.get("storage_data") if isinstance(metadata, InertObject) else None
    if not isinstance(declared, dict) or not isinstance(stored, dict):
        raise UnreadableInput("not the metadata of a torch.distributed.checkpoint.", file=METADATA)
    layout = Layout()
    wanted = _declared(cast(dict[object, object], declared), layout)
    places = _resolved(folder, _stored(cast(dict[object, object], stored), layout), layout)
    for path, some in groupby(sorted(places, key=lambda one: (one[0], one[1].offset)), lambda one: one[0]):
        free = 0
        try:
            file = regular(path, path.name)
        except UnreadableInput as error:
            layout.problems.append(str(error))
            continue
        with file:
            size = path.stat().st_size
            for _, place in some:
                try:
                    what = wanted.pop((place.name, place.offsets), None)
                    _hold(place, what is not None, free, size)
                    free = place.offset + place.length
                    layout.pieces.setdefault(path, []).extend(_archive(file, place, what, layout))
                except UnreadableInput as error:
                    layout.problems.append(str(error))
    if wanted:
        name = min(name for name, _ in wanted)
        more = f" and {len(wanted) - 1} more are" if len(wanted) > 1 else " is"
        layout.problems.append(f"{METADATA}: {name}{more} declared and not stored")
    return layout


@dataclass(frozen=True)
class _Declared:
    """A piece as `state_dict_metadata` describes it; `sizes` is None for what is no tensor."""

    sizes: tuple[int, ...] | None
    dtype: str | None


@dataclass(frozen=True)
class _Place:
    name: str
    offsets: tuple[int, ...]
    file: str
    offset: int
    length: int


def _declared(entries: dict[object, object], layout: Layout) -> dict[tuple[str, tuple[int, ...]], _Declared]:
    wanted: dict[tuple[str, tuple[int, ...]], _Declared] = {}
    for name, entry in entries.items():
        if not _is_name(name) or not isinstance(entry, InertObject):
            raise UnreadableInput("names a piece by what is no short text.", file=METADATA)
        if entry.name == "BytesStorageMetadata":
            layout.others.add(name)
            wanted[name, ()] = _Declared(None, None)
            continue
        layout.tensors.add(name)
        chunks, dtype = entry.get("chunks"), _dtype(entry.get("properties"))
        if entry.name != "TensorStorageMetadata" or not isinstance(chunks, list) or dtype is None:
            raise UnreadableInput(f"{name} is described in a way that is not known.", file=METADATA)
        for chunk in cast(list[object], chunks):
            held = chunk if isinstance(chunk, InertObject) else InertObject("")
            offsets, shape = sizes(held.get("offsets")), sizes(held.get("sizes"))
            if offsets is None or shape is None:
                raise UnreadableInput(f"{name} has a piece without offsets and sizes.", file=METADATA)
            wanted[name, offsets] = _Declared(shape, dtype)
    return wanted


def _dtype(properties: object) -> str | None:
    """The dtype in a TensorProperties, whose state is a tuple that begins with it."""
    state = properties.state if isinstance(properties, InertObject) else None
    first = cast(tuple[object, ...], state)[0] if isinstance(state, tuple) and state else None
    return first.name if isinstance(first, InertDType) else None


def _stored(entries: dict[object, object], layout: Layout) -> Iterator[_Place]:
    for index, info in entries.items():
        name = index.get("fqn") if isinstance(index, InertObject) else None
        offsets = index.get("offset") if isinstance(index, InertObject) else None
        numbers = sizes((info.get("offset"), info.get("length"))) if isinstance(info, InertObject) else None
        file = info.get("relative_path") if isinstance(info, InertObject) else None
        at = () if offsets is None else sizes(offsets)
        if not (_is_name(name) and _is_name(file) and numbers is not None and at is not None):
            raise UnreadableInput("says where a piece lies in a way that is not known.", file=METADATA)
        if isinstance(info, InertObject) and info.get("transform_descriptors"):
            layout.problems.append(f"{file}: {name} was stored through a transform and cannot be looked at")
            continue
        yield _Place(name, at, file, *numbers)


def _resolved(folder: Path, places: Iterator[_Place], layout: Layout) -> list[tuple[Path, _Place]]:
    """Each place with the file that it is in. A path that leaves the checkpoint is a problem."""
    files: dict[str, Path | None] = {}
    found: list[tuple[Path, _Place]] = []
    for place in places:
        if place.file not in files:
            files[place.file] = None
            try:
                files[place.file] = inside(folder, place.file, METADATA)
            except UnreadableInput as error:
                layout.problems.append(str(error))
        path = files[place.file]
        if path is not None:
            found.append((path, place))
    return found


def _hold(place: _Place, declared: bool, free: int, size: int) -> None:
    """Hold a place against the file's size, and against what lies before it.

    Raises:
        UnreadableInput: they disagree.
    """
    why = (
        "stored without being declared" if not declared
        else "reaches beyond the file's end: it was cut short" if place.offset + place.length > size
        else "overlaps another piece" if place.offset < free
        else ""
    )  # fmt: skip
    if why:
        raise UnreadableInput(f"{place.name} {why}.", file=place.file)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _archive(file: BinaryIO, place: _Place, what: _Declared | None, layout: Layout) -> list[FileSpan]:
    """The records of one piece of a DCP checkpoint, its tensor being what `.metadata` says."""
    shown = f"{place.file}: {place.name}"
    value, pieces, found = _saved(file, place.offset, place.length, shown, place.name)
    if what is None or what.sizes is None:
        layout.tensors |= {name for name, _ in found}
        return pieces
    if not isinstance(value, InertTensor) or sizes(value.size) != what.sizes or value.dtype != what.dtype:
        raise UnreadableInput(f"is not the {what.dtype} tensor that {METADATA} says.", file=shown)
    return pieces


def torch_layout(path: Path) -> Layout:
    """The layout of a torch.save file, zip or legacy.

    Raises:
        UnreadableInput: it is neither, its pickle is refused, or a tensor in it reaches beyond its bytes.
    """
    layout = Layout()
    name = plain(path.name)
    with regular(path, name) as file:
        size = path.stat().st_size
        start = file.read(2)
        if start == b"PK":
            value, pieces, found = _saved(file, 0, size, name, "")
        elif start[:1] == b"\x80":
            value, pieces, found = _legacy(file, size, name)
        else:
            raise UnreadableInput("not a checkpoint: neither a DCP directory nor a file of torch.save.", file=name)
    layout.pieces[path] = pieces
    layout.tensors = {name for name, _ in found}
    layout.others = {name for name, leaf in _leaves(value, "") if not isinstance(leaf, InertTensor)}
    return layout


_Found = list[tuple[str, InertTensor]]


def _saved(file: BinaryIO, start: int, length: int, shown: str, prefix: str) -> tuple[object, list[FileSpan], _Found]:
    """(value, pieces, its tensors by name) of one torch.save archive."""
    records = zips.records(file, start, length, shown)
    if "data.pkl" not in records:
        raise UnreadableInput("an archive without data.pkl.", file=shown)
    if "byteorder" in records and zips.read(file, records["byteorder"], 16, shown) != b"little":
        raise UnreadableInput("written on a big-endian machine, which cannot be looked at here.", file=shown)
    data = zips.read(file, records["data.pkl"], LIMIT, shown)
    value = safe_load(data, file=f"{shown}: data.pkl", persistent=lambda ident: _storage(ident, shown))
    found = [(name, leaf) for name, leaf in _leaves(value, prefix) if isinstance(leaf, InertTensor)]
    views = _views(found, {key: record.size for key, record in records.items()}, shown)
    pieces = [
        FileSpan(f"{shown}: {plain(record.name, 80)}", record.start, record.size, record.crc, tuple(views.get(key, ())))
        for key, record in records.items()
    ]
    return value, pieces, found


def _legacy(file: BinaryIO, size: int, shown: str) -> tuple[object, list[FileSpan], _Found]:
    """The same of what torch.save wrote before it wrote archives: five pickles, then each storage behind its length."""
    file.seek(0)
    data = file.read(LIMIT)
    at = 0
    parts: list[Any] = []
    widths: dict[str, int] = {}

    def storage(ident: object) -> InertStorage:
        found = _storage(ident, shown)
        widths[found.key.removeprefix("data/")] = item_size(found.dtype) or 1
        return found

    for _ in range(5):
        value, at = load_at(data, at, file=shown, persistent=storage)
        parts.append(value)
        if parts[0] != _LEGACY_MAGIC:
            raise UnreadableInput("not a checkpoint: a pickle, but not one of torch.save.", file=shown)
    keys = cast(list[object], parts[4]) if isinstance(parts[4], list) else []
    spans: dict[str, tuple[int, int]] = {}
    for key in keys:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or not isinstance(key, str) or key not in widths or f"data/{key}" in spans:
            raise UnreadableInput("cut short, or its list of storages is damaged.", file=shown)
        span = struct.unpack("<q", head)[0] * widths[key]
        if span < 0 or at + 8 + span > size:
            raise UnreadableInput("cut short: a storage reaches beyond its end.", file=shown)
        spans[f"data/{key}"] = (at + 8, span)
        at += 8 + span
    found = [(name, leaf) for name, leaf in _leaves(parts[3], "") if isinstance(leaf, InertTensor)]
    views = _views(found, {key: span for key, (_, span) in spans.items()}, shown)
    pieces = [FileSpan(shown, begin, span, None, tuple(views.get(key, ()))) for key, (begin, span) in spans.items()]
    return parts[3], pieces, found


def _storage(ident: object, shown: str) -> InertStorage:
    """The storage that a persistent id of torch.save means."""
    parts = cast(tuple[object, ...], ident) if isinstance(ident, tuple) else ()
    if len(parts) >= 5 and parts[0] == "storage" and isinstance(parts[1], InertStorageType):
        key, numel = parts[2], sizes((parts[4],))
        if _is_name(key) and numel is not None and (len(parts) == 5 or parts[5] is None):
            return InertStorage(parts[1].dtype, f"data/{key}", numel[0])
    raise UnreadableInput("refers to something that is no storage of torch.save.", file=shown)


def _views(found: _Found, records: dict[str, int], shown: str) -> dict[str, list[TensorBytes]]:
    """record → the stretches of it that are tensors. A tensor with gaps counts from its first to its last element."""
    views: dict[str, list[TensorBytes]] = {}
    for name, tensor in found:
        storage, width = tensor.storage, item_size(tensor.dtype)
        shape, stride, offset = sizes(tensor.size), sizes(tensor.stride), sizes((tensor.offset,))
        if not isinstance(storage, InertStorage) or shape is None or stride is None or offset is None or width is None:
            raise UnreadableInput(f"{name or 'the tensor'} is of a kind that is not known.", file=shown)
        if len(shape) != len(stride) or storage.key not in records:
            raise UnreadableInput(f"{name or 'the tensor'} has no storage.", file=shown)
        reach = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if math.prod(shape) else 0
        first, last = offset[0] * width, (offset[0] + reach) * width
        if last > records[storage.key]:
            raise UnreadableInput(f"{name or 'the tensor'} reaches beyond its storage.", file=shown)
        if reach:
            views.setdefault(storage.key, []).append(TensorBytes(name, cast(str, tensor.dtype), first, last))
    return views


def _leaves(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    """(dotted name, leaf) of all that hangs in dictionaries, lists and tuples; what is met again is not entered again.

    Raises:
        UnreadableInput: nested deeper than any state is.
    """
    seen: set[int] = set()
    todo: list[tuple[str, object, int]] = [(prefix, value, 0)]
    while todo:
        name, current, depth = todo.pop()
        if not isinstance(current, (dict, list, tuple)):
            yield name, current
            continue
        if id(cast(object, current)) in seen:
            continue
        seen.add(id(cast(object, current)))
        if depth > _DEEPEST:
            raise UnreadableInput(f"nested deeper than {_DEEPEST} levels.", file=plain(prefix) or "data.pkl")
        for key, inner in _items(cast("dict[object, object] | list[object] | tuple[object, ...]", current)):
            text = str(key) if isinstance(key, int) else key if isinstance(key, str) else type(key).__name__
            todo.append((f"{name}.{text[:_LONGEST_NAME]}"[-_LONGEST_NAME:].removeprefix("."), inner, depth + 1))


def _items(container: dict[object, object] | list[object] | tuple[object, ...]) -> Iterator[tuple[object, object]]:
    return iter(container.items()) if isinstance(container, dict) else enumerate(container)
