"""MLflow's file store: `mlruns/<experiment>/<run>/metrics/<name>`, `time value step` lines of one metric."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from postmortem.run import Run
from postmortem.run.manifest import Manifest
from postmortem.run.rows import MOST_COLUMNS
from postmortem.series import Values
from postmortem.small_file import read_bytes
from postmortem.sources._assemble import assemble
from postmortem.sources._mlflow import LIMITS, is_of_machine, setting
from postmortem.sources._points import MOST_POINTS, Points, points_table, too_many
from postmortem.sources._runs import by_name, only_run
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.text import count, plain

_LINE = re.compile(rb"(\d{1,20}) [-+.\deEnaif]{1,40}(?: -?\d{1,19}(?: \S+ \S+)?)?\r?\n")
_EXPERIMENT = re.compile(rb"^experiment_id:", re.MULTILINE)
_DIGITS = 9  # of a time in seconds or milliseconds
_META = 4096  # bytes
_MOST_BYTES = 128 * 2**20
_MOST_PARAMS, _PARAM = 4096, 2**16
_MOST_RUNS, _MOST_LOOKED_AT = 10_000, 200
_MOST_FOLDERS = 10_000  # of one run, in which metrics are looked for


def sniff(candidate: Candidate) -> FormatMatch | None:
    """The folder of a run, an experiment, or a store."""
    if not candidate.is_dir:
        return None
    if "metrics" in candidate.names and _is_run(candidate.path):
        return FormatMatch(Confidence.CERTAIN, "its metrics/ contains MLflow's lines of time, value and step")
    folders = (candidate.path / name for name in candidate.names[:_MOST_LOOKED_AT])
    if any(_EXPERIMENT.search(_meta(folder)) for folder in folders):
        return FormatMatch(Confidence.CERTAIN, "its folders contain MLflow's meta.yaml")
    return None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """The run in a folder, or the only one in an experiment or a store.

    Raises:
        SeveralRuns: it has several, newest first.
        UnreadableInput: no run has metrics.
    """
    runs = [path] if _is_run(path) else list(islice(_runs(path), _MOST_RUNS))
    metas = {run: _meta(run) for run in runs}
    runs.sort(key=lambda run: _started(metas[run]), reverse=True)
    folders = {run.name: run for run in runs}
    names = by_name([(uuid, _field(metas[run], "run_name")) for uuid, run in folders.items()])
    readers = {name: partial(_read_run, path, folders[uuid], mapping, name) for name, uuid in names.items()}
    return only_run("an MLflow store", path, readers)


def _read_run(path: Path, folder: Path, mapping: Mapping[str, str], name: str) -> Run:
    """The run in `folder`, which is somewhere in `path`."""
    notes: list[str] = []
    shown = plain((folder.relative_to(path) / "metrics").as_posix(), 120) + "/"
    metrics = _metrics(folder / "metrics", shown, notes)
    table = points_table(shown, metrics, tuple(notes))
    about = Manifest(id=plain(name), config=_params(folder / "params"))
    return assemble(SOURCE, folder, None, SourceTable(table, SOURCE), None, mapping, about=about)


def _is_run(folder: Path) -> bool:
    """Whether its metrics are MLflow's: the first begins with a time, by its length or by a meta.yaml beside."""
    first = next(_metric_files(folder / "metrics"), None)
    try:
        with (first or folder).open("rb") as file:
            line = _LINE.match(file.read(200))
    except OSError:
        return False
    return line is not None and (len(line[1]) >= _DIGITS or _EXPERIMENT.search(_meta(folder)) is not None)


def _runs(path: Path) -> Iterator[Path]:
    """The runs of an experiment, or of all experiments of a store, without those that were deleted."""
    for folder in _folders(path):
        if not _EXPERIMENT.search(_meta(folder)):
            continue
        inner = [folder] if (folder / "metrics").is_dir() else _folders(folder)
        yield from (run for run in inner if _is_run(run) and _field(_meta(run), "lifecycle_stage") != "deleted")


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _meta(folder: Path) -> bytes:
    """The beginning of its meta.yaml; nothing where there is none."""
    file = folder / "meta.yaml"
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as opened:
            return opened.read(_META)
    except OSError:
        return b""


def _field(meta: bytes, name: str) -> str:
    match = re.search(rf"^{name}: ['\"]?(.+?)['\"]?\s*$".encode(), meta, re.MULTILINE)
    return match[1].decode(errors="replace") if match else ""


def _started(meta: bytes) -> int:
    """When a run began, in milliseconds; 0 where it is not known."""
    start = _field(meta, "start_time")
    return int(start) if start.isdecimal() and len(start) < 20 else 0


def _metric_files(folder: Path) -> Iterator[Path]:
    """The files of metrics, sorted, no link among them: a name with `/` is in a folder of its own."""
    for parent, folders, files in islice(os.walk(folder), _MOST_FOLDERS):
        folders.sort()
        for name in sorted(files):
            file = Path(parent, name)
            if not name.startswith(".") and not file.is_symlink() and file.is_file():
                yield file


@dataclass
class _Seen:
    """What was read so far, and what was left out, for the notes."""

    of_machine: int = 0
    size: int = 0  # bytes
    lines: int = 0
    bad: int = 0
    first_bad: str = ""


def _metrics(folder: Path, display_name: str, notes: list[str]) -> dict[str, Points]:
    metrics: dict[str, Points] = {}
    seen = _Seen()
    files = list(islice(_metric_files(folder), MOST_COLUMNS + 1))
    for file in files[:MOST_COLUMNS]:
        name = file.relative_to(folder).as_posix()
        if is_of_machine(name):
            seen.of_machine += 1
            continue
        data = read_bytes(file, name=f"{display_name}{plain(name, 120)}", limit=_MOST_BYTES - seen.size)
        seen.size += len(data)
        seen.lines += data.count(b"\n")
        if seen.lines > MOST_POINTS:
            raise too_many(display_name)
        points = _points(data, f"{display_name}{plain(name, 120)}", seen)
        if points.value.size:
            metrics[name] = points
    if seen.of_machine:
        notes.append(f"{display_name}: {count(seen.of_machine, 'metric')} of the machine (system/…) not read")
    if seen.bad:
        notes.append(f"{seen.first_bad}: not read: {count(seen.bad, 'line')} without time, value and step")
    if len(files) > MOST_COLUMNS:
        notes.append(f"{display_name}: metrics beyond the first {MOST_COLUMNS} were ignored")
    return metrics


def _points(data: bytes, name: str, seen: _Seen) -> Points:
    """The whole lines of one metric; the step is 0 where a line has none, as in MLflow itself."""
    data = data[: data.rfind(b"\n") + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers = np.fromstring(data, np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            numbers = np.zeros(0)
    if numbers.size == 3 * data.count(b"\n"):
        return _of(numbers.reshape(-1, 3))
    rows: list[tuple[float, float, float]] = []
    for number, line in enumerate(data.splitlines(), 1):
        fields = line.split()
        try:
            step = 0.0 if len(fields) == 2 else float(fields[2])
            rows.append((float(fields[0]), float(fields[1]), step))
        except (ValueError, IndexError):
            seen.bad += 1
            seen.first_bad = seen.first_bad or f"{name}:{number}"
    return _of(np.array(rows, np.float64).reshape(-1, 3))


def _of(lines: Values) -> Points:
    return Points(lines[:, 2], lines[:, 0] / 1000, lines[:, 1])


def _params(folder: Path) -> dict[str, object]:
    """The parameters of a run: name → number or text."""
    params: dict[str, object] = {}
    for file in islice(_metric_files(folder), _MOST_PARAMS):
        with file.open("rb") as opened:
            text = opened.read(_PARAM).decode(errors="replace")
        params[file.relative_to(folder).as_posix()] = setting(text)
    return params


SOURCE = Source("MLflow store", "a folder of MLflow's (mlruns/, or a run in it)", sniff, read, limits=LIMITS)
