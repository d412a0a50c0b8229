"""Finds the places of a checkpoint's tensors by its tables alone: DCP directories and torch.save files.

Every claim of a table is checked against the files before the place that it names is read.
"""

from __future__ import annotations

import math
import stat
import struct
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, cast

from postmortem.checkpoint import zips
from postmortem.checkpoint.allowlist import InertStorage, InertStorageType, InertTensor, sizes
from postmortem.checkpoint.dcp_tables import LONGEST_NAME, METADATA, DeclaredPiece, StoredPlace, is_name, read_tables
from postmortem.checkpoint.pickles import LIMIT, load_at, safe_load
from postmortem.checkpoint.streaming import FileSpan, TensorBytes, item_size
from postmortem.errors import UnreadableInput
from postmortem.run.places import Places
from postmortem.small_file import open_regular, read_bytes
from postmortem.text import plain

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DEEPEST = 64


@dataclass
class Layout:
    """What the tables say: `pieces` by file, sorted, without overlap; dotted names of `tensors` and `others`."""

    pieces: dict[Path, list[FileSpan]] = field(default_factory=dict[Path, list[FileSpan]])
    tensors: set[str] = field(default_factory=set[str])
    others: set[str] = field(default_factory=set[str])
    problems: list[str] = field(default_factory=list[str])


def open_part(path: Path, shown: str) -> BinaryIO:
    """Open a file of a checkpoint for reading.

    Raises:
        UnreadableInput: it does not exist, is not a regular file, or may not be read.
    """
    with _explained(shown):
        return open_regular(path, shown)


def read_small(path: Path, shown: str, limit: int = LIMIT) -> bytes:
    """All of a small file. Raises UnreadableInput if it is larger than `limit` bytes, or as `open_part`."""
    with _explained(shown):
        return read_bytes(path, name=shown, limit=limit)


@contextmanager
def _explained(shown: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableInput("missing.", file=shown) from error
    except (OSError, ValueError) as error:
        raise UnreadableInput(f"cannot be read ({plain(error, 80)}).", file=shown) from error


def dcp_layout(inside_folder: Places, *, pieces: bool = True) -> Layout:
    """The layout of a torch.distributed.checkpoint directory.

    Without `pieces` no tensor is looked for in its file, which is nine tenths of the work: `.metadata` says where it
    is, and the file's size whether it can be there.

    Raises:
        UnreadableInput: `.metadata` cannot be read or is no metadata. Damage of one piece is a problem instead.
    """
    data = read_small(inside_folder.root / METADATA, METADATA)
    tables = read_tables(data)
    layout = Layout({}, set(tables.tensors), set(tables.others), list(tables.problems))
    if not pieces and tables.ends and all(_reaches(inside_folder, *end) for end in tables.ends.items()):
        return layout
    declared_pieces = dict(tables.declared)
    places = _with_files(inside_folder, tables.stored, layout)
    places.sort(key=lambda pair: (pair[0], pair[1].offset))
    for name, places_in_file in groupby(places, lambda pair: pair[0]):
        free, path = 0, Path(name)
        try:
            file = open_part(path, path.name)
        except UnreadableInput as error:
            layout.problems.append(str(error))
            continue
        with file:
            size = path.stat().st_size
            for _, place in places_in_file:
                try:
                    piece = declared_pieces.pop((place.name, place.offsets), None)
                    _check_place(place, piece is not None, free, size)
                    free = place.offset + place.length
                    if pieces or piece is None or piece.sizes is None:
                        layout.pieces.setdefault(path, []).extend(_spans_of_piece(file, place, piece, layout))
                except UnreadableInput as error:
                    layout.problems.append(str(error))
    if declared_pieces:
        first = min(name for name, _ in declared_pieces)
        more = f" and {len(declared_pieces) - 1} more are" if len(declared_pieces) > 1 else " is"
        layout.problems.append(f"{METADATA}: {first}{more} declared and not stored")
    return layout


def _reaches(folder: Places, name: str, end: int) -> bool:
    """Whether a file of this very name, no link and in no other folder, has at least `end` bytes."""
    try:
        info = (folder.root / name).lstat()
    except (OSError, ValueError):
        return False
    return "/" not in name and stat.S_ISREG(info.st_mode) and info.st_size >= end


def _with_files(inside_folder: Places, places: Iterable[StoredPlace], layout: Layout) -> list[tuple[str, StoredPlace]]:
    """Each place with its file. A path that leads out of the checkpoint is a problem."""
    files: dict[str, str | None] = {}
    pairs: list[tuple[str, StoredPlace]] = []
    for place in places:
        if place.file not in files:
            files[place.file] = None
            try:
                files[place.file] = inside_folder.find(place.file, METADATA)[0]
            except UnreadableInput as error:
                layout.problems.append(str(error))
        path = files[place.file]
        if path is not None:
            pairs.append((path, place))
    return pairs


def _check_place(place: StoredPlace, declared: bool, free: int, size: int) -> None:
    """Check a place against the file's size, and against the piece before it.

    Raises:
        UnreadableInput: they disagree.
    """
    reason = (
        "stored without being declared" if not declared
        else "reaches beyond the file's end: it was cut short" if place.offset + place.length > size
        else "overlaps another piece" if place.offset < free
        else ""
    )  # fmt: skip
    if reason:
        raise UnreadableInput(f"{place.name} {reason}.", file=place.file)


def _spans_of_piece(
    file: BinaryIO, place: StoredPlace, declared: DeclaredPiece | None, layout: Layout
) -> list[FileSpan]:
    """The records of one piece of a DCP checkpoint, whose tensor has to match `.metadata`."""
    shown = f"{place.file}: {place.name}"
    value, pieces, tensors = _read_archive(file, place.offset, place.length, shown, place.name)
    if declared is None or declared.sizes is None:
        layout.tensors |= {name for name, _ in tensors}
        return pieces
    if not isinstance(value, InertTensor) or sizes(value.size) != declared.sizes or value.dtype != declared.dtype:
        raise UnreadableInput(f"is not the {declared.dtype} tensor that {METADATA} says.", file=shown)
    return pieces


def torch_layout(path: Path) -> Layout:
    """The layout of a torch.save file, zip or legacy.

    Raises:
        UnreadableInput: it is neither, its pickle is refused, or a tensor in it reaches beyond its bytes.
    """
    layout = Layout()
    name = plain(path.name)
    with open_part(path, name) as file:
        size = path.stat().st_size
        start = file.read(2)
        if start == b"PK":
            value, pieces, tensors = _read_archive(file, 0, size, name, "")
        elif start[:1] == b"\x80":
            value, pieces, tensors = _read_legacy(file, size, name)
        else:
            raise UnreadableInput("not a checkpoint: neither a DCP directory nor a file of torch.save.", file=name)
    layout.pieces[path] = pieces
    layout.tensors = {name for name, _ in tensors}
    layout.others = {name for name, leaf in _leaves(value, "") if not isinstance(leaf, InertTensor)}
    return layout


_NamedTensors = list[tuple[str, InertTensor]]


def _read_archive(
    file: BinaryIO, start: int, length: int, shown: str, prefix: str
) -> tuple[object, list[FileSpan], _NamedTensors]:
    """(value, pieces, its tensors by name) of one torch.save archive."""
    records = zips.records(file, start, length, shown)
    if "data.pkl" not in records:
        raise UnreadableInput("an archive without data.pkl.", file=shown)
    if "byteorder" in records and zips.read(file, records["byteorder"], 16, shown) != b"little":
        raise UnreadableInput("written on a big-endian machine, which cannot be read here.", file=shown)
    data = zips.read(file, records["data.pkl"], LIMIT, shown)
    value = safe_load(data, file=f"{shown}: data.pkl", persistent=lambda ident: _storage_of(ident, shown))
    tensors = [(name, leaf) for name, leaf in _leaves(value, prefix) if isinstance(leaf, InertTensor)]
    views = _tensor_bytes(tensors, {key: record.size for key, record in records.items()}, shown)
    pieces = [
        FileSpan(f"{shown}: {plain(record.name, 80)}", record.start, record.size, record.crc, tuple(views.get(key, ())))
        for key, record in records.items()
    ]
    return value, pieces, tensors


def _read_legacy(file: BinaryIO, size: int, shown: str) -> tuple[object, list[FileSpan], _NamedTensors]:
    """The same for the format of torch.save before archives: five pickles, then each storage after its length."""
    file.seek(0)
    data = file.read(LIMIT)
    position = 0
    parts: list[Any] = []
    widths: dict[str, int] = {}

    def storage(ident: object) -> InertStorage:
        inert = _storage_of(ident, shown)
        widths[inert.key.removeprefix("data/")] = item_size(inert.dtype) or 1
        return inert

    for _ in range(5):
        value, position = load_at(data, position, file=shown, persistent=storage)
        parts.append(value)
        if parts[0] != _LEGACY_MAGIC:
            raise UnreadableInput("not a checkpoint: a pickle, but not one of torch.save.", file=shown)
    keys = cast(list[object], parts[4]) if isinstance(parts[4], list) else []
    spans: dict[str, tuple[int, int]] = {}
    for key in keys:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or not isinstance(key, str) or key not in widths or f"data/{key}" in spans:
            raise UnreadableInput("cut short, or its list of storages is damaged.", file=shown)
        span = struct.unpack("<q", head)[0] * widths[key]
        if span < 0 or position + 8 + span > size:
            raise UnreadableInput("cut short: a storage reaches beyond its end.", file=shown)
        spans[f"data/{key}"] = (position + 8, span)
        position += 8 + span
    tensors = [(name, leaf) for name, leaf in _leaves(parts[3], "") if isinstance(leaf, InertTensor)]
    views = _tensor_bytes(tensors, {key: span for key, (_, span) in spans.items()}, shown)
    pieces = [FileSpan(shown, begin, span, None, tuple(views.get(key, ()))) for key, (begin, span) in spans.items()]
    return parts[3], pieces, tensors


def _storage_of(ident: object, shown: str) -> InertStorage:
    """The storage that a persistent id of torch.save refers to."""
    parts = cast(tuple[object, ...], ident) if isinstance(ident, tuple) else ()
    if len(parts) >= 5 and parts[0] == "storage" and isinstance(parts[1], InertStorageType):
        key, numel = parts[2], sizes((parts[4],))
        if is_name(key) and numel is not None and (len(parts) == 5 or parts[5] is None):
            return InertStorage(parts[1].dtype, f"data/{key}", numel[0])
    raise UnreadableInput("refers to something that is not a storage of torch.save.", file=shown)


def _tensor_bytes(tensors: _NamedTensors, records: dict[str, int], shown: str) -> dict[str, list[TensorBytes]]:
    """record → the places of its tensors. A tensor with gaps counts from its first to its last element."""
    views: dict[str, list[TensorBytes]] = {}
    for name, tensor in tensors:
        storage, width = tensor.storage, item_size(tensor.dtype)
        shape, stride, offset = sizes(tensor.size), sizes(tensor.stride), sizes((tensor.offset,))
        if not isinstance(storage, InertStorage) or shape is None or stride is None or offset is None or width is None:
            raise UnreadableInput(f"{name or 'the tensor'} is of an unknown kind.", file=shown)
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
    """(dotted name, leaf) of everything in nested dictionaries, lists and tuples; each container is entered once.

    Raises:
        UnreadableInput: it is nested deeper than any state is.
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
            todo.append((f"{name}.{text[:LONGEST_NAME]}"[-LONGEST_NAME:].removeprefix("."), inner, depth + 1))


def _items(container: dict[object, object] | list[object] | tuple[object, ...]) -> Iterator[tuple[object, object]]:
    return iter(container.items()) if isinstance(container, dict) else enumerate(container)
