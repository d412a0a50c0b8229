"""Rows of a resumable bench, kept as a small Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from _measure import ROOT

from postmortem.atomic import write_bytes

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


class Made(Protocol):
    """A dataclass of one training: its fault and seed, and the code that it came of."""

    __dataclass_fields__: Any
    fault: str
    seed: int


R = TypeVar("R", bound=Made)


class Results(Generic[R]):
    """benchmarks/results/<name>.parquet: one row per `row`, a dataclass of str, int, float, bool, each or None."""

    def __init__(self, name: str, row: type[R]) -> None:
        self.path = ROOT / "benchmarks" / "results" / f"{name}.parquet"
        self._row = row
        self._schema = pa.schema([(one.name, _TYPES[str(one.type).partition(" ")[0]]) for one in fields(row)])

    def load(self) -> list[R]:
        """The rows kept so far; none where they are of another shape."""
        if not self.path.exists():
            return []
        table = pq.read_table(self.path)
        return [self._row(**row) for row in table.to_pylist()] if table.schema.names == self._schema.names else []

    def save(self, rows: Sequence[R]) -> None:
        """All rows, replacing the file atomically, in an order that keeps the diff of two benches small."""
        self.path.parent.mkdir(exist_ok=True)
        ordered = sorted(rows, key=lambda row: (row.fault, row.seed))
        buffer = pa.BufferOutputStream()
        table = pa.Table.from_pylist([asdict(row) for row in ordered], schema=self._schema)
        pq.write_table(table, buffer, compression="zstd")
        write_bytes(self.path, buffer.getvalue().to_pybytes())
