"""One Parquet file of rows, read column by column."""

from __future__ import annotations

from pathlib import Path

from postmortem.run.parquet import parquet_part
from postmortem.run.table import Table
from postmortem.sources._assemble import row_source
from postmortem.sources._files import display_name
from postmortem.sources._source import by_ending


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """The file's footer; each column is read when it is first used.

    Raises:
        UnreadableInput: empty, corrupt, or no Parquet.
    """
    return Table(display_name(path), (parquet_part(path, display_name(path), labels),))


SOURCE = row_source("parquet", "a Parquet file (.parquet, .pq)", by_ending(".parquet", ".pq"), read_table)
