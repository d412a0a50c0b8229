"""TensorBoard event files, and folders of them: Lightning's `version_0/`, Keras's `train/` and `validation/`.

All event files of a folder are one run: a program that is started again writes a new one. Folders one level down are
further writers of the same run where they have other tags, or one is for evaluation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.table import Table
from postmortem.sources._assemble import assemble
from postmortem.sources._event_file import EventFile, NoEventFile, is_event_file, read_event_file
from postmortem.sources._event_rows import Writer, event_table, order, refuse_writers_at_once
from postmortem.sources._files import display_name
from postmortem.sources._source import Candidate, CanonicalNames, Confidence, FormatMatch, Source, SourceTable
from postmortem.text import plain

_IN_NAME = "tfevents"
_ROWS = (".csv", ".tsv", ".jsonl", ".parquet")
_MOST_FOLDERS, _MOST_FILES = 1_000, 1_000
_RATE = re.compile(r"(?:.*/)?(?:epoch|batch)_(?:lr|learning_rate)")
_EVALUATION_LOSS = re.compile(r"(?:.*/)?evaluation_loss_vs_iterations")


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A file that begins with an event, or a folder in which, or one level below which, there are such files."""
    if candidate.is_dir:
        return _sniff_folder(candidate)
    if is_event_file(candidate.head):
        return FormatMatch(Confidence.CERTAIN, "it begins with an event of TensorBoard")
    if _IN_NAME in candidate.name:
        return FormatMatch(Confidence.POSSIBLE, "it has the name of an event file of TensorBoard")
    return None


def _sniff_folder(candidate: Candidate) -> FormatMatch | None:
    """A folder that is called by its own files of rows is left to them: other programs write events beside those."""
    names = candidate.names
    if any(name in ("metrics.csv", "metrics.jsonl", "metrics.parquet") for name in names):
        return None
    if any(_IN_NAME in name for name in names):
        return FormatMatch(Confidence.LIKELY, "it contains event files of TensorBoard")
    if any(name.lower().endswith(_ROWS) for name in names):
        return None
    if any(_event_files(folder) for folder in _folders(candidate.path)):
        return FormatMatch(Confidence.POSSIBLE, "folders in it contain event files of TensorBoard")
    return None


def _folders(path: Path) -> Iterator[Path]:
    """The folders in a folder, without links."""
    try:
        with os.scandir(path) as entries:
            names = sorted(e.name for e, _ in zip(entries, range(100 * _MOST_FOLDERS), strict=False) if _is_folder(e))
    except OSError:
        return
    yield from (path / name for name in names[:_MOST_FOLDERS])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")


def _event_files(folder: Path) -> list[Path]:
    """The event files in a folder by their names, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / e.name for e in entries if _IN_NAME in e.name and e.is_file())
    except OSError:
        return []


def read_table(path: Path) -> tuple[Table, list[str]]:
    """(the rows of a file, or of all event files in a folder and in the folders in it; notes on what was left out).

    Raises:
        UnreadableInput: no scalar, several runs, or a file that is no event file.
    """
    if not path.is_dir():
        file = read_event_file(path, display_name(path))
        return event_table([Writer("", (file,))], file.name, file.name), []
    notes: list[str] = []
    folders = ("", *(folder.name for folder in _folders(path)))
    writers = [writer for folder in folders if (writer := _writer(path, folder, notes)) is not None]
    if writers and not writers[0].folder:
        writers = [writers[0], *(writer for writer in writers[1:] if not _is_session(writer, notes))]
    if not writers:
        raise UnreadableInput("no event file in it, or one level down, has a value.", file=plain(path, 1000))
    return event_table(writers, display_name(path), plain(path, 1000)), notes


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """Read a file or a folder: the run of `read_table`.

    Raises:
        UnreadableInput: what `read_table` or `assemble` cannot read.
    """
    table, notes = read_table(path)
    return assemble(SOURCE, path, None, SourceTable(table, SOURCE), None, mapping, notes)


def _writer(path: Path, folder: str, notes: list[str]) -> Writer | None:
    """The files of one folder; None where none of them has a scalar. Appends to `notes`."""
    paths = _event_files(path / folder)
    if len(paths) > _MOST_FILES:
        raise UnreadableInput(
            f"{len(paths):,} event files in one folder: more than {_MOST_FILES:,} are not read.",
            file=plain(path / folder, 1000),
            hint="Give one of them.",
        )
    prefix = f"{plain(folder, 60)}/" if folder else ""
    files: list[EventFile] = []
    for file in paths:
        try:
            if file.stat().st_size:
                files.append(read_event_file(file, prefix + display_name(file)))
        except NoEventFile as error:
            if len(paths) == 1:
                raise
            notes.append(plain(error, 300))
    writer = Writer(folder, tuple(sorted((file for file in files if file.points.tag.size), key=order)))
    refuse_writers_at_once(writer, plain(path / folder, 1000))
    return writer if writer.files else None


def _is_session(writer: Writer, notes: list[str]) -> bool:
    """Whether a writer below another is what `add_hparams` makes: hyperparameters and their results. Notes that it is
    left out. Lightning writes hyperparameters, too, but into the folder of the run."""
    is_session = any(file.session for file in writer.files)
    if is_session:
        notes.append(f"{plain(writer.folder, 60)}/: hyperparameters and their results, no steps of a run: left out")
    return is_session


def columns(table: Table, _mapping: Mapping[str, str]) -> CanonicalNames:
    """Names that only Keras's callback gives."""
    rates = {name: "lr" for name in table.names if _RATE.fullmatch(name)}
    return rates | {name: "eval_loss" for name in table.names if _EVALUATION_LOSS.fullmatch(name)}


SOURCE = Source(
    "TensorBoard events",
    "TensorBoard event files (events.out.tfevents.*), or a folder of them",
    sniff,
    read,
    lambda path, _: read_table(path)[0],
    columns,
    limits=("what stands at a step may be the mean of the steps before it: an event does not say so",),
)
