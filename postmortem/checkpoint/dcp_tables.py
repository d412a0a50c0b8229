"""Reads the tables of a torch.distributed.checkpoint, its `.metadata`: what is in it, and where, by its own word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard, cast

from postmortem.checkpoint.allowlist import InertDType, InertObject, sizes
from postmortem.checkpoint.pickles import safe_load
from postmortem.errors import UnreadableInput

METADATA = ".metadata"
LONGEST_NAME = 500  # characters
_SMALL = 2**20  # bytes of tables that are kept for the next checkpoint


@dataclass(frozen=True)
class DeclaredPiece:
    """A piece as `state_dict_metadata` describes it; `sizes` is None for what is not a tensor."""

    sizes: tuple[int, ...] | None
    dtype: str | None


@dataclass(frozen=True)
class StoredPlace:
    """Where a piece is stored: `length` bytes of `file` from `offset` on."""

    name: str
    offsets: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class DcpTables:
    """What `.metadata` says, whatever the files are: pieces by name and offsets, and where each is stored. `ends` are
    the last bytes of the files, where nothing but their sizes is left to be checked of the tables; else empty."""

    declared: Mapping[tuple[str, tuple[int, ...]], DeclaredPiece]
    stored: tuple[StoredPlace, ...]
    tensors: frozenset[str]
    others: frozenset[str]
    problems: tuple[str, ...]
    ends: Mapping[str, int]


def read_tables(data: bytes) -> DcpTables:
    """The tables in the bytes of a `.metadata`; those of the last few checkpoints are kept.

    Raises:
        UnreadableInput: they are no metadata, or their pickle is refused.
    """
    return (_small_tables if len(data) <= _SMALL else _tables)(data)


def _tables(data: bytes) -> DcpTables:
    metadata = safe_load(data, file=METADATA)
    declared = metadata.get("state_dict_metadata") if isinstance(metadata, InertObject) else None
    stored = metadata.get("storage_data") if isinstance(metadata, InertObject) else None
    if not isinstance(declared, dict) or not isinstance(stored, dict):
        raise UnreadableInput("not the metadata of a torch.distributed.checkpoint.", file=METADATA)
    pieces, problems = _declared_pieces(cast(dict[object, object], declared)), list[str]()
    places = tuple(_stored_places(cast(dict[object, object], stored), problems))
    others = frozenset(name for (name, _), piece in pieces.items() if piece.sizes is None)
    tensors = frozenset(str(name) for name in cast(dict[object, object], declared)) - others
    return DcpTables(pieces, places, tensors, others, tuple(problems), _ends(pieces, places))


# The checkpoints of a run have the same tables as long as the model is the same, whatever the values in it.
_small_tables = lru_cache(maxsize=4)(_tables)


def _ends(
    declared: Mapping[tuple[str, tuple[int, ...]], DeclaredPiece], places: tuple[StoredPlace, ...]
) -> dict[str, int]:
    """File → its last byte, if the tables are sound: only tensors, each stored once, and no two in one place."""
    left, ends = dict(declared), dict[str, int]()
    for place in sorted(places, key=lambda place: (place.file, place.offset)):
        piece = left.pop((place.name, place.offsets), None)
        if piece is None or piece.sizes is None or place.offset < ends.get(place.file, 0):
            return {}
        ends[place.file] = place.offset + place.length
    return {} if left else ends


def _declared_pieces(entries: dict[object, object]) -> dict[tuple[str, tuple[int, ...]], DeclaredPiece]:
    pieces: dict[tuple[str, tuple[int, ...]], DeclaredPiece] = {}
    for name, entry in entries.items():
        if not is_name(name) or not isinstance(entry, InertObject):
            raise UnreadableInput("has a piece whose name is not a short text.", file=METADATA)
        if entry.name == "BytesStorageMetadata":
            pieces[name, ()] = DeclaredPiece(None, None)
            continue
        chunks, dtype = entry.get("chunks"), _dtype(entry.get("properties"))
        if entry.name != "TensorStorageMetadata" or not isinstance(chunks, list) or dtype is None:
            raise UnreadableInput(f"{name} is described in an unknown way.", file=METADATA)
        for chunk in cast(list[object], chunks):
            fields = chunk if isinstance(chunk, InertObject) else InertObject("")
            offsets, shape = sizes(fields.get("offsets")), sizes(fields.get("sizes"))
            if offsets is None or shape is None:
                raise UnreadableInput(f"{name} has a piece without offsets and sizes.", file=METADATA)
            pieces[name, offsets] = DeclaredPiece(shape, dtype)
    return pieces


def _dtype(properties: object) -> str | None:
    """The dtype in a TensorProperties, whose state is a tuple that begins with it."""
    state = properties.state if isinstance(properties, InertObject) else None
    first = cast(tuple[object, ...], state)[0] if isinstance(state, tuple) and state else None
    return first.name if isinstance(first, InertDType) else None


def _stored_places(entries: dict[object, object], problems: list[str]) -> Iterator[StoredPlace]:
    for index, info in entries.items():
        name = index.get("fqn") if isinstance(index, InertObject) else None
        offsets = index.get("offset") if isinstance(index, InertObject) else None
        numbers = sizes((info.get("offset"), info.get("length"))) if isinstance(info, InertObject) else None
        file = info.get("relative_path") if isinstance(info, InertObject) else None
        place = () if offsets is None else sizes(offsets)
        if not (is_name(name) and is_name(file) and numbers is not None and place is not None):
            raise UnreadableInput("gives the place of a piece in an unknown way.", file=METADATA)
        if isinstance(info, InertObject) and info.get("transform_descriptors"):
            problems.append(f"{file}: {name} was stored through a transform and cannot be read")
            continue
        yield StoredPlace(name, place, file, *numbers)


def is_name(value: object) -> TypeGuard[str]:
    """Whether it is text that is short enough for a name."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME
