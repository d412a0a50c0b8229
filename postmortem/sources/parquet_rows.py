"""One Parquet file of rows, read column by column."""

from __future__ import annotations

from pathlib import Path

from postmortem.run.table import Table, parquet_part
from postmortem.sources._assemble import row_source
from postmortem.sources._files import suffix


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """The file's footer; columns follow when they are asked for.

    Raises:
        UnreadableInput: empty, corrupt, or no Parquet.
    """
    del labels  # Parquet says itself what is text
    return Table(path.name, (parquet_part(path, path.name),))


SOURCE = row_source(
    "parquet", "a Parquet file (.parquet, .pq)", lambda path: suffix(path, ".parquet", ".pq"), read_table
)
