"""Conversion between plain arrays and Arrow, through which Parquet is read and written.

`pyarrow.array` and `Array.to_numpy` import pandas (half a second of CPU), and `cast` all compute functions (a tenth of
a draft), so numbers cross by their buffers instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from postmortem.run.values import Cells, LabelCells, Mask, Numbers, cells_of
from postmortem.series import Values

Array = Any  # pyarrow ships no types
ArrowTable = Any
ArrowType = Any


def from_arrow(column: Array, *, label: bool) -> Cells:
    """An Arrow array as cells, by its type: numbers, booleans and times (as unix seconds) are numbers.

    Text is read like the text of a CSV cell unless the column is a `label`.
    """
    return cells_from([column], len(column), label=label)


def cells_from(arrays: Iterable[Array], rows: int, *, label: bool) -> Cells:
    """A column of so many rows from the Arrow arrays of its pieces, in their order, as `from_arrow` reads each.

    Only one piece is needed at a time, besides the result.

    Raises:
        ValueError: the pieces have another number of rows.
    """
    column, objects, at, kind = _NumberColumn(rows), list[object](), 0, None
    for array in arrays:
        end, kind = at + len(array), array.type
        if end > rows:
            break
        numbers = _numbers_of(array, label)
        if numbers is None:
            objects += _python_values(array)
        else:
            column.put(at, end, numbers)
        at = end
    if at != rows:
        raise ValueError(f"other than the {rows:,} rows that it should have")
    if column.filled:
        return column.cells()
    if kind is None or _is_list_of_numbers(kind) or _is_whole_number(kind):  # token ids: nothing to clean
        return LabelCells(_objects(objects))
    return cells_of(objects, label=label)[0]


class _NumberColumn:
    """A column of numbers that is put together from pieces."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._whole: Numbers | None = None
        self._value: Values | None = None
        self._logged: Mask | None = None

    @property
    def filled(self) -> bool:
        """Whether there was a piece."""
        return self._whole is not None or self._value is not None

    def put(self, start: int, end: int, piece: Numbers) -> None:
        """Add rows [start, end). A piece that is the whole column is not copied."""
        if end - start == self._rows:
            self._whole = piece
            return
        if self._value is None:
            self._value = np.empty(self._rows, np.float64)
        self._value[start:end] = piece.value
        if piece.logged is not None:
            if self._logged is None:
                self._logged = np.ones(self._rows, np.bool_)
            self._logged[start:end] = piece.logged

    def cells(self) -> Numbers:
        """The column."""
        if self._whole is not None:
            return self._whole
        return Numbers(np.zeros(0) if self._value is None else self._value, self._logged)


def _numbers_of(column: Array, label: bool) -> Numbers | None:
    """An Arrow array of numbers, booleans or times; None where it has another type, or whole numbers of a label."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        value_kind = column.type.value_type
        if not (pa.types.is_integer(value_kind) or pa.types.is_floating(value_kind)):
            return None
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_null(kind):
        return Numbers(np.zeros(len(column)), np.zeros(len(column), np.bool_))
    if pa.types.is_timestamp(kind):
        seconds = _numbers(column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()))
        return Numbers(seconds.value / 1e6, seconds.logged)
    if pa.types.is_boolean(kind):
        return _numbers(column.cast(pa.uint8()))
    if (pa.types.is_integer(kind) and not label) or pa.types.is_floating(kind):
        return _numbers(column)
    if pa.types.is_decimal(kind):
        return _numbers(column.cast(pa.float64(), safe=False))
    return None


def _python_values(column: Array) -> list[object]:
    """An Arrow array as Python objects. A text that a dictionary lists is one object in all its rows.

    Raises:
        ValueError: a dictionary does not list what a row refers to.
    """
    from pyarrow import types

    kind = column.type
    if not _has_dictionary(kind):
        return column.to_pylist()
    if types.is_dictionary(kind):
        return _listed_values(column)
    if not (types.is_list(kind) or types.is_large_list(kind)):
        raise ValueError(f"values of type {kind}, which are not read")
    ends = _numbers(column.offsets).value.astype(np.int64).tolist()
    inner = _python_values(column.values.slice(ends[0], ends[-1] - ends[0]))
    values: list[object] = [inner[a - ends[0] : b - ends[0]] for a, b in pairwise(ends)]
    valid = _validity_of(column)
    return values if valid is None else [v if ok else None for v, ok in zip(values, valid.tolist(), strict=True)]


def _listed_values(column: Array) -> list[object]:
    """The values of an array that contains their positions in a dictionary."""
    listed = _objects([*_python_values(column.dictionary), None])
    rows = _numbers(column.indices)
    positions = rows.value.astype(np.int64)
    if rows.logged is not None:
        positions[~rows.logged] = listed.size - 1
    if positions.size and not 0 <= positions.min() <= positions.max() < listed.size:
        raise ValueError("a dictionary does not list all values")
    return listed[positions].tolist()


def _is_whole_number(kind: ArrowType) -> bool:
    from pyarrow import types

    return types.is_integer(kind.value_type if types.is_dictionary(kind) else kind)


def _has_dictionary(kind: ArrowType) -> bool:
    """Whether an Arrow type is a dictionary, or has one inside."""
    from pyarrow import types

    return types.is_dictionary(kind) or any(_has_dictionary(kind.field(i).type) for i in range(kind.num_fields))


def _is_list_of_numbers(kind: ArrowType) -> bool:
    """Whether an Arrow type is lists of numbers, at any depth."""
    from pyarrow import types

    leaf = kind
    while types.is_list(leaf) or types.is_large_list(leaf):
        leaf = leaf.value_type
    return leaf is not kind and (types.is_integer(leaf) or types.is_floating(leaf))


def _numbers(column: Array) -> Numbers:
    """An array of whole numbers or floats as float64; of float64 without a copy (but for the validity bits)."""
    data = column.buffers()[1]
    first, size, kind = column.offset, len(column), np.dtype(column.type.to_pandas_dtype())
    value = np.frombuffer(data, kind, size, first * kind.itemsize) if size else np.zeros(0)
    return Numbers(value.astype(np.float64, copy=False), _validity_of(column))


def _validity_of(column: Array) -> Mask | None:
    """Which values of an array are not null; None where all of them are."""
    if column.null_count == 0:
        return None
    first, size = column.offset, len(column)
    bits = np.frombuffer(column.buffers()[0], np.uint8, (first + size + 7) // 8)
    return np.unpackbits(bits, bitorder="little")[first : first + size].astype(np.bool_)


def _objects(values: Sequence[object]) -> np.typing.NDArray[np.object_]:
    out = np.full(len(values), None, np.object_)
    for i, value in enumerate(values):
        out[i] = value
    return out


def to_arrow(cells: Cells, *, integers: bool) -> Array:
    """Cells as an Arrow array: float64 (int64 with `integers`, where every value is whole), text, or lists.

    Objects of several types that have no common Arrow type become text.
    """
    import pyarrow as pa

    if isinstance(cells, Numbers):
        bits = None if cells.logged is None else pa.py_buffer(_packed(cells.logged))
        data = pa.py_buffer(np.ascontiguousarray(cells.value))
        column = pa.Array.from_buffers(pa.float64(), cells.value.size, [bits, data])
        exact = integers and bool((np.isfinite(cells.value) & (np.floor(cells.value) == cells.value)).all())
        return column.cast(pa.int64(), safe=False) if exact else column
    values = cells.value.tolist()
    column = _typed_array(values)
    return column if column is not None else _text_array([None if v is None else str(v) for v in values])


def _typed_array(values: Sequence[Any]) -> Array | None:
    """Text, whole numbers, numbers, or lists of them to any depth as an Arrow array; None where they are mixed."""
    import pyarrow as pa

    kinds = {type(v) for v in values} - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {str}:
        return _text_array(values)
    if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return _number_array(values, np.int64, pa.int64())
    if kinds <= {int, float}:
        return _number_array(values, np.float64, pa.float64())
    if kinds <= {list, tuple}:
        inner = _typed_array([item for v in values if v is not None for item in v])
        if inner is None:
            return None
        ends = np.cumsum([0, *(0 if v is None else len(v) for v in values)]).astype(np.int32)
        kind = pa.list_(inner.type)
        buffers = [_validity(values), pa.py_buffer(ends)]
        return pa.Array.from_buffers(kind, len(values), buffers, children=[inner])
    return None


def _text_array(values: Sequence[str | None]) -> Array:
    import pyarrow as pa

    encoded = [b"" if v is None else v.encode("utf-8", "replace") for v in values]
    ends = np.cumsum([0, *map(len, encoded)])
    offset, kind = (np.int64, pa.large_string()) if ends[-1] >= 2**31 else (np.int32, pa.string())
    buffers = [_validity(values), pa.py_buffer(ends.astype(offset)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _number_array(values: Sequence[Any], dtype: type[np.generic], kind: Any) -> Array:
    import pyarrow as pa

    data = pa.py_buffer(np.array([0 if v is None else v for v in values], dtype))
    return pa.Array.from_buffers(kind, len(values), [_validity(values), data])


def _validity(values: Sequence[object]) -> Any:
    import pyarrow as pa

    mask = np.array([v is not None for v in values], np.bool_)
    return None if mask.all() else pa.py_buffer(_packed(mask))


def _packed(mask: Mask) -> bytes:
    return np.packbits(mask, bitorder="little").tobytes()


def merge_tables(tables: Sequence[ArrowTable]) -> ArrowTable:
    """One table of the rows of several; a column whose type differs between them becomes text."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        kinds: dict[str, set[object]] = {}
        for table in tables:
            for column in table.schema:
                kinds.setdefault(column.name, set()).add(column.type)
        mixed = [name for name, types in kinds.items() if len(types) > 1]
        return pa.concat_tables([_as_text(table, mixed) for table in tables], promote_options="permissive")


def _as_text(table: ArrowTable, names: Sequence[str]) -> ArrowTable:
    for name in names:
        if name in table.column_names:
            text = _text_array([None if v is None else str(v) for v in table[name].to_pylist()])
            table = table.set_column(table.column_names.index(name), name, text)
    return table
