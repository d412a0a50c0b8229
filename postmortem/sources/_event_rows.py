"""Rows of TensorBoard event files: what their writers logged at one step, under a name for each tag."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput
from postmortem.run.naming import name_list
from postmortem.run.rows import MOST_COLUMNS
from postmortem.run.table import Bounds, Part, Table
from postmortem.run.values import Numbers
from postmortem.series import Steps, Values
from postmortem.sources._event_file import EventFile, EventPoints
from postmortem.text import count, plain

STEP, TIME = "step", "time"
_OF_SAMPLES = re.compile(r".* vs (?:samples|tokens)")
"""Megatron's further copies of each tag, whose steps are samples or tokens: `lm loss vs samples`."""

_KERAS_OF_EPOCHS, _KERAS_OF_STEPS = re.compile(r"(?:.*/)?epoch_(.+)"), re.compile(r"(?:.*/)?batch_(.+)")
_KERAS_EVALUATION = re.compile(r"(?:.*/)?evaluation_.+_vs_iterations")
"""Keras counts epochs in its `epoch_loss` and steps in `batch_loss`: keras/src/callbacks/tensorboard.py."""

_TRAIN = frozenset(("train", "training"))
_EVALUATION = frozenset(("val", "valid", "validation", "eval", "evaluation", "dev", "test"))
_WORD = re.compile(r"[a-z]+|[0-9]+")
_MOST_COMPARED = 50  # files of a folder
_FREE_CELLS, _CELLS_PER_POINT = 400_000_000, 20  # cells of the table that may be empty: a column is filled when needed


@dataclass(frozen=True)
class Writer:
    """The event files of one folder, in the order of their time; `folder` is its name below the one that is read, ""
    for that one itself."""

    folder: str
    files: tuple[EventFile, ...]

    @property
    def tags(self) -> dict[str, None]:
        """The tags of all files, in the order of first appearance."""
        return {tag: None for file in self.files for tag in file.tags}


def columns_of(writers: Sequence[Writer], path: str) -> dict[tuple[str, str], str]:
    """(folder, tag) → the name of its column.

    A tag keeps its name where one writer has it. Of several, and of evaluation, the folder goes before it, as in
    `train/epoch_loss`; and what `add_scalars` put into folders is named as the call did: `loss/train`.

    Raises:
        UnreadableInput: several runs: folders that are neither of training nor evaluation have the same tags.
    """
    in_folders = Counter(tag for writer in writers for tag in writer.tags)
    words_of = {writer.folder: _WORD.findall(writer.folder.lower()) for writer in writers if writer.folder}
    shared = _shared_beginning(list(words_of.values()))
    names: dict[tuple[str, str], str] = {}
    owners: dict[str, str] = {}
    for writer in writers:
        words = frozenset(words_of.get(writer.folder, [])[shared:])
        of_evaluation, of_training = (bool(words) and words <= role for role in (_EVALUATION, _TRAIN))
        for tag in writer.tags:
            name = tag
            curve = writer.folder.removeprefix(tag.replace("/", "_") + "_")
            if writer.folder and curve != writer.folder:
                name = f"{tag}/{curve}"
            elif writer.folder and (of_evaluation or (of_training and in_folders[tag] > 1)):
                name = f"{writer.folder}/{tag}"
            if name in (STEP, TIME):
                name = f"{name} (tag)"
            if owners.setdefault(name, writer.folder) != writer.folder:
                raise _several_runs(writers, path)
            names[writer.folder, tag] = name
    return names


def _shared_beginning(texts: Sequence[Sequence[str]]) -> int:
    """The number of words with which all of several texts begin."""
    if len(texts) < 2:
        return 0
    return next((i for i, words in enumerate(zip(*texts, strict=False)) if len(set(words)) > 1), min(map(len, texts)))


def _several_runs(writers: Sequence[Writer], path: str) -> UnreadableInput:
    newest = max((writer for writer in writers if writer.folder), key=lambda writer: writer.files[-1].started)
    return UnreadableInput(
        f"event files of {len(writers)} runs: {name_list(writer.folder or '.' for writer in writers)}.",
        file=path,
        hint=f"Say which one is meant, as in: postmortem draft {quote(f'{path}/{plain(newest.folder, 200)}')}",
    )


def refuse_writers_at_once(writer: Writer, path: str) -> None:
    """Refuse files of one folder that were written at the same time with the same tags and steps: no restarts, but
    ranks, or runs that share a folder.

    Raises:
        UnreadableInput: names two of them.
    """
    spans = [(file, np.nanmin(t), np.nanmax(t)) for file in writer.files if np.isfinite(t := file.points.time).any()]
    for (file, first, last), (other, other_first, other_last) in combinations(spans[:_MOST_COMPARED], 2):
        shared = min(last, other_last) - max(first, other_first)
        if shared > 0 and 2 * shared > min(last - first, other_last - other_first) and _same_steps(file, other):
            example = f"{path}/{file.name.rpartition('/')[2]}"
            raise UnreadableInput(
                f"{file.name} and {other.name} were written at the same time, with the same tags and steps: "
                "two runs, or two ranks of one.",
                file=path,
                hint=f"Give one of them, as in: postmortem draft {quote(example)}",
            )


def _same_steps(file: EventFile, other: EventFile) -> bool:
    for tag in set(file.tags) & set(other.tags):
        steps, others = (f.points.step[f.points.tag == f.tags.index(tag)] for f in (file, other))
        if 2 * np.intersect1d(steps, others).size > min(steps.size, others.size):
            return True
    return False


def event_table(writers: Sequence[Writer], display_name: str, path: str) -> Table:
    """The rows of all writers, in the order of their time: one for each step of a file, and one more for each time that
    a tag was logged at that step again.

    Raises:
        UnreadableInput: several runs, no scalar, or nearly only empty cells.
    """
    names = columns_of(writers, path)
    left_out, notes = _of_other_steps(dict.fromkeys(names.values()), display_name)
    kept = [name for name in dict.fromkeys(names.values()) if name not in left_out]
    columns = {name: i for i, name in enumerate(kept[:MOST_COLUMNS])}
    if len(kept) > MOST_COLUMNS:
        notes.append(f"{display_name}: tags beyond the first {MOST_COLUMNS:,} were ignored")
    files = sorted(((writer, file) for writer in writers for file in writer.files), key=lambda pair: order(pair[1]))
    read: list[_FileRows] = []
    for writer, file in files:
        column = np.array([columns.get(names[writer.folder, tag], -1) for tag in file.tags], np.int32)
        read.append(_file_rows(file.points, column))
        notes += file.notes
    notes += _ignored(writers, display_name)
    if len(files) > 1:
        notes.insert(0, f"{display_name}: {len(files)} event files were read as one run, in the order of their time")
    rows = _merged(read)
    if not rows.column.size:
        raise UnreadableInput("has no scalar.", file=path, hint=" ".join(notes) or "Has the run logged a value yet?")
    if rows.step.size * len(columns) > max(_FREE_CELLS, _CELLS_PER_POINT * rows.column.size):
        raise UnreadableInput(
            f"{rows.step.size:,} steps have {len(columns):,} tags, but "
            f"{rows.column.size / rows.step.size:.3g} on average: no log of a run.",
            file=path,
            hint="Log the tags that belong together at the same steps.",
        )
    return Table(display_name, (_part(rows, columns),), tuple(notes))


def order(file: EventFile) -> tuple[float, str]:
    """The key by which files are sorted: when they were started."""
    return (file.started if np.isfinite(file.started) else 0.0), file.name


def _of_other_steps(names: Mapping[str, None], display_name: str) -> tuple[set[str], list[str]]:
    """(columns whose steps count something else than those of the others, notes that they are left out)."""
    samples = {name for name in names if _OF_SAMPLES.fullmatch(name)}
    epochs = {name: match[1] for name in names if (match := _KERAS_OF_EPOCHS.fullmatch(name))}
    of_steps = any((match := _KERAS_OF_STEPS.fullmatch(name)) and match[1] in epochs.values() for name in names)
    keras = set(epochs) if of_steps else {name for name in names if epochs and _KERAS_EVALUATION.fullmatch(name)}
    left_out, notes = set[str](), list[str]()
    for which, counted in ((samples, "samples or tokens"), (keras, "epochs" if of_steps else "batches")):
        if which and len(left_out | which) < len(names):
            left_out |= which
            was = "was" if len(which) == 1 else "were"
            notes.append(f"{display_name}: {name_list(sorted(which), 3)} {was} left out, whose steps are {counted}")
    return left_out, notes


def _ignored(writers: Sequence[Writer], display_name: str) -> list[str]:
    others: Counter[str] = Counter()
    for writer in writers:
        for file in writer.files:
            others += file.others
    if not others:
        return []
    kinds = ", ".join(count(number, plain(kind, 60)) for kind, number in others.most_common(6))
    return [f"{display_name}: ignored what is no scalar: {kinds}"]


@dataclass(frozen=True, slots=True, eq=False)
class _FileRows:
    """Points and rows: of each point its column int32[n], row int64[n] and value; of each row its step and time."""

    column: NDArray[np.int32]
    row: Steps
    value: Values
    step: Steps
    time: Values


def _file_rows(points: EventPoints, column_of_tag: NDArray[np.int32]) -> _FileRows:
    """The rows of one file, in the order of their first points."""
    column = column_of_tag[points.tag] if column_of_tag.size else points.tag
    kept = column >= 0
    if not kept.all():
        points = EventPoints(points.tag[kept], points.step[kept], points.time[kept], points.value[kept])
        column = column[kept]
    row, first = _rows_of(points.tag, points.step)
    return _FileRows(column, row, points.value, points.step[first], points.time[first])


def _rows_of(tag: NDArray[np.int32], step: Steps) -> tuple[Steps, Steps]:
    """(the row of each point, the first point of each row)."""
    if not step.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    again = _times_before(tag, step)
    if again is None and bool((step[1:] >= step[:-1]).all()):
        begins = np.r_[True, step[1:] != step[:-1]]
        return np.cumsum(begins) - 1, np.flatnonzero(begins)
    again = np.zeros(step.size, np.int64) if again is None else again
    order = np.lexsort((again, step))
    begins = np.r_[True, (np.diff(step[order]) != 0) | (np.diff(again[order]) != 0)]
    first = np.minimum.reduceat(order, np.flatnonzero(begins))
    place = np.empty(first.size, np.int64)
    place[np.argsort(first)] = np.arange(first.size)
    row = np.empty(step.size, np.int64)
    row[order] = place[np.cumsum(begins) - 1]
    return row, np.sort(first)


def _times_before(tag: NDArray[np.int32], step: Steps) -> Steps | None:
    """How often each point's tag was logged at its step before: int64[n]; None where it never was."""
    order = np.argsort(tag.astype(np.int16), kind="stable")  # MOST_COLUMNS fit; numpy sorts these by their digits
    if bool(((np.diff(step[order]) > 0) | (np.diff(tag[order]) != 0)).all()):
        return None
    order = np.lexsort((step, tag))
    begins = np.r_[True, (np.diff(step[order]) != 0) | (np.diff(tag[order]) != 0)]
    numbers = np.arange(step.size)
    again = np.empty(step.size, np.int64)
    again[order] = numbers - np.maximum.accumulate(np.where(begins, numbers, 0))
    return again


def _merged(files: Sequence[_FileRows]) -> _FileRows:
    """The rows of all files: those of one file stay in its order, those of several are sorted by time."""
    if len(files) == 1:
        return files[0]
    sizes = [file.step.size for file in files]
    starts = np.cumsum([0, *sizes])
    when = [np.fmax.accumulate(np.r_[-np.inf, file.time])[1:] for file in files]
    order = np.argsort(np.concatenate(when), kind="stable")
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    return _FileRows(
        np.concatenate([file.column for file in files]),
        np.concatenate([place[start + file.row] for start, file in zip(starts[:-1], files, strict=True)]),
        np.concatenate([file.value for file in files]),
        np.concatenate([file.step for file in files])[order],
        np.concatenate([file.time for file in files])[order],
    )


def _part(rows: _FileRows, columns: Mapping[str, int]) -> Part:
    """All rows; a column is filled when it is read."""
    order = np.argsort(rows.column.astype(np.int16), kind="stable")
    ends = np.searchsorted(rows.column[order], np.arange(len(columns) + 1))
    row, value = rows.row[order], rows.value[order]

    def points(name: str) -> slice:
        return slice(int(ends[columns[name]]), int(ends[columns[name] + 1]))

    def load(name: str) -> Numbers:
        if name == STEP:
            return Numbers(rows.step.astype(np.float64), None)
        if name == TIME:
            known = np.isfinite(rows.time)
            return Numbers(rows.time, None if known.all() else known)
        filled, logged = np.zeros(rows.step.size), np.zeros(rows.step.size, np.bool_)
        filled[row[points(name)]] = value[points(name)]
        logged[row[points(name)]] = True
        return Numbers(filled, None if logged.all() else logged)

    @lru_cache(MOST_COLUMNS)
    def bounds(name: str) -> Bounds | None:
        if name in (STEP, TIME):
            return None
        values = value[points(name)]
        finite = values[np.isfinite(values)]
        nulls = rows.step.size - values.size
        return Bounds(nulls, float(finite.min()), float(finite.max())) if finite.size else Bounds(nulls)

    return Part(rows.step.size, (STEP, TIME, *columns), load, bounds)
