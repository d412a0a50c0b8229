"""Writes a run that was read, whatever its format, as a run directory of docs/run-format.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from postmortem.atomic import copy_file, put_folder, saving, staged, write_new
from postmortem.errors import UsageError
from postmortem.jsonio import strict_json
from postmortem.run.columns import KEYS
from postmortem.run.manifest import FORMAT_VERSION
from postmortem.run.model import Log, Run
from postmortem.run.naming import is_label
from postmortem.run.parts import arrow_table, write_part
from postmortem.run.rows import Chunk
from postmortem.run.table import Table
from postmortem.run.values import Cells, LabelCells, Numbers
from postmortem.series import Steps
from postmortem.text import plain


def write_directory(run: Run, place: Path) -> None:
    """Write the rows, manifest and journal of `run` into the new folder `place`: all of it, or nothing.

    Every column is kept, also those without a known meaning, and every row that has a step, those of discarded attempts
    too. Columns keep the names of the log, and run.json says what they mean. Checkpoints are not copied.

    Raises:
        UsageError: `place` exists, or no folder can have that name.
        CannotWrite: it cannot be written.
    """
    with saving(place, option=""):
        if place.exists():
            raise UsageError(f"{plain(place, 1000)}: exists already. Choose a new folder.")
        place.parent.mkdir(parents=True, exist_ok=True)
        with staged(place) as stage:
            folder = stage / "run"
            folder.mkdir()
            columns: dict[str, str] = {}
            for name, log in zip(("metrics", "batches"), run.logs, strict=False):
                (folder / name).mkdir()
                chunk, meanings = _chunk(log)
                write_part(folder / name, arrow_table(chunk))
                columns |= meanings
            write_new(folder / "run.json", strict_json(_manifest(run, columns), ensure_ascii=False, indent=2).encode())
            if run.journal:
                write_new(folder / "journal.jsonl", run.journal.text())
            vocab = None if run.root is None or run.manifest.vocab is None else run.root / run.manifest.vocab
            if vocab is not None and vocab.is_file():
                copy_file(vocab, folder / "vocab.json")
            put_folder(folder, place)


def _manifest(run: Run, columns: Mapping[str, str]) -> dict[str, object]:
    """run.json: what the log says about its run, the meaning of its columns, and how it was read."""
    before = dict(run.manifest.raw)
    vocab = {"vocab": "vocab.json"} if run.root is not None and run.manifest.vocab is not None else {}
    converted = {"source": run.source, "notes": run.notes}
    return {
        **before,
        "format_version": FORMAT_VERSION,
        "id": run.id,
        **vocab,
        "columns": dict(columns),
        "converted": converted,
    }


def _chunk(log: Log) -> tuple[Chunk, dict[str, str]]:
    """(the rows of a table that have keys, own name → canonical name of its columns)."""
    table, keys = log.table, log.keys
    size = keys.step.size
    key_columns = {"step": keys.step, "attempt": keys.attempt, "rank": keys.rank}
    columns: dict[str, Cells] = {
        name: Numbers(np.zeros(size) if values is None else values.astype(np.float64), None)
        for name, values in key_columns.items()
    }
    meanings: dict[str, str] = {}
    canonical_of = {name: canonical for canonical, name in log.names.logged_as.items()}
    for name in table.names:
        cells = _cells(table, name, keys.rows)
        meaning = canonical_of.get(name)
        if meaning in KEYS and _equal(cells, columns[meaning]):
            if name == log.names.epoch:  # steps that are epochs mean something else than steps
                del columns[meaning]
                columns[name], meanings[name] = cells, meaning
        elif meaning in KEYS or name in KEYS:
            columns[_free(f"{name} as logged" if name in KEYS else name, columns)] = cells
        elif meaning is not None and is_label(meaning):  # its name alone says that digits in it are text
            columns[meaning] = cells
        else:
            columns[_free(name, columns)] = cells
            if meaning is not None:
                meanings[name] = meaning
    return Chunk(size, columns), meanings


def _free(name: str, columns: Mapping[str, object]) -> str:
    """The name, with as many `'` as it takes to be another than those of `columns`."""
    while name in columns:
        name += "'"
    return name


def _cells(table: Table, name: str, rows: Steps | None) -> Cells:
    """A column in the rows that have keys."""
    numbers = table.numbers(name)
    if numbers is None:
        values = table.objects(name)
        return LabelCells(values if rows is None else values[rows])
    if rows is None:
        return numbers
    return Numbers(numbers.value[rows], None if numbers.logged is None else numbers.logged[rows])


def _equal(cells: Cells, key: Cells) -> bool:
    return isinstance(cells, Numbers) and np.array_equal(cells.value, key.value) and not cells.nulls
