"""fastai's CSVLogger: `epoch,train_loss,valid_loss,…,time`, one row an epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from postmortem.run.table import Table
from postmortem.sources._assemble import row_source
from postmortem.sources._source import Candidate, Confidence, FormatMatch
from postmortem.sources.csv_rows import read_table as read_csv

_FIRST, _TIME = b"epoch,train_loss,valid_loss", b"time"


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A table whose header is fastai's."""
    header = candidate.head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip()
    if header.startswith(_FIRST) and header.rpartition(b",")[2] == _TIME:
        return FormatMatch(Confidence.CERTAIN, "its header is that of fastai's CSVLogger")
    return None


def read_table(path: Path, labels: frozenset[str]) -> Table:
    """All rows without `time`, the minutes and seconds that an epoch took.

    Raises:
        UnreadableInput: what `csv_rows.read_table` refuses.
    """
    table = read_csv(path, labels)
    time = _TIME.decode()
    parts = [replace(part, names=tuple(name for name in part.names if name != time)) for part in table.parts]
    return replace(table, parts=tuple(parts))


SOURCE = row_source(
    "fastai",
    "",
    sniff,
    read_table,
    limits=("train_loss is fastai's running mean at the end of an epoch: a spike within it may be gone",),
)
