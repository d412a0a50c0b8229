"""A bare folder: metrics.csv|jsonl|parquet, and beside it batches.*, journal.jsonl and run.json|yaml if they exist."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote

from postmortem.errors import UnreadableInput, UsageError
from postmortem.run import Run
from postmortem.run.manifest import MANIFESTS
from postmortem.run.naming import name_list
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._below import contents, log_stem, row_logs, runs_below
from postmortem.sources._copies import Copy, copy_of
from postmortem.sources._files import display_name, require_file
from postmortem.sources._registry import SourceMatch, only_source
from postmortem.sources._runs import only_run
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.text import plain

_MOST_TRIED = 20
_BESIDE = {"journal.jsonl", "vocab.json", *MANIFESTS}  # files of this format that are no rows


def sniff(candidate: Candidate) -> FormatMatch | None:
    """Any folder."""
    return FormatMatch(Confidence.FALLBACK, "it is a folder") if candidate.is_dir else None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """Read the log of the folder: metrics.*, or the file that a format is surest of; else that of a folder in it.

    Raises:
        SeveralRuns: no log, but several folders with one.
        UnreadableInput: no log, or several logs, and no metrics.* among them.
    """
    logs = row_logs(path)
    candidates = [p for p in logs if log_stem(p) != "batches" and p.name not in _BESIDE]
    confidence = {p: logs[p][0].match.confidence for p in candidates}
    best = max(confidence.values(), default=Confidence.FALLBACK)
    chosen = [p for p in candidates if log_stem(p) == "metrics"] or [p for p in candidates if confidence[p] == best]
    if not chosen or (best == Confidence.FALLBACK and log_stem(chosen[0]) != "metrics"):
        below = runs_below(path, mapping)
        if below:
            return _of_folder_below(path, below)
        if len(chosen) > 1:
            return _read_readable(path, mapping, chosen, logs)
    return _read_log(path, mapping, chosen, logs)


def _read_readable(
    path: Path, mapping: Mapping[str, str], unsure: Sequence[Path], logs: Mapping[Path, tuple[SourceMatch, ...]]
) -> Run:
    """The only one of files that can be read, such as a text log that begins with a long preamble, beside a .json."""
    runs: dict[Path, Run] = {}
    for log in unsure[:_MOST_TRIED]:
        with suppress(UnreadableInput, UsageError):
            runs[log] = _read_log(path, mapping, [log], logs)
    if not runs:
        raise _no_log(path)
    if len(runs) > 1:
        raise _several_logs(path, list(runs))
    return next(iter(runs.values()))


def _of_folder_below(path: Path, below: Mapping[str, Callable[[], Run]]) -> Run:
    run = only_run("a folder", path, below)
    name = plain(next(iter(below)), 120)
    run.notes = (f"{name}/ is the only folder in {plain(path.name or path, 120)}/ with a log: it was read", *run.notes)
    return run


def _read_log(
    path: Path, mapping: Mapping[str, str], chosen: Sequence[Path], logs: Mapping[Path, tuple[SourceMatch, ...]]
) -> Run:
    """The only one of the `chosen` logs, with the log of batches."""
    labels = label_names(mapping)
    if not chosen:
        raise _no_log(path)
    others = [log for log in chosen[1:] if not filecmp.cmp(chosen[0], log, shallow=False)]  # mmengine writes all twice
    if others:
        raise _several_logs(path, chosen)
    notes = (
        []
        if log_stem(chosen[0]) == "metrics"
        else [f"{plain(chosen[0].name)} is the only log of its kind in the folder and was read as its metrics"]
    )
    batches = [p for p in logs if log_stem(p) == "batches"]
    if len(batches) > 1:
        raise UnreadableInput(f"several logs of batches: {name_list(p.name for p in batches)}.", file=plain(path))
    copies: list[Copy] = []
    batch_rows = _rows(batches[0], logs[batches[0]], labels, copies) if batches and batches[0].stat().st_size else None
    rows = _rows(chosen[0], logs[chosen[0]], labels, copies)
    run = assemble(SOURCE, path, path, rows, batch_rows, mapping, [*notes, *(n for c in copies for n in c.notes)])
    run.held = copies
    return run


def _no_log(path: Path) -> UnreadableInput:
    file = next((p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")), path / "train.log")
    return UnreadableInput(
        f"no log of a run in this folder, nor one level down. It holds {contents(path)}.",
        file=plain(path),
        hint="Expected metrics.csv, metrics.jsonl, metrics.parquet or a log of another known format; if one of its "
        f"files is the log: postmortem draft {plain(quote(str(file)), 1000)} --source csv",
    )


def _several_logs(path: Path, logs: Sequence[Path]) -> UnreadableInput:
    return UnreadableInput(
        f"several logs: {name_list(p.name for p in logs)}.",
        file=plain(path),
        hint=f"Give the path of one of them, as in: postmortem draft {plain(quote(str(logs[0])), 1000)}",
    )


def _rows(path: Path, matches: tuple[SourceMatch, ...], labels: frozenset[str], copies: list[Copy]) -> SourceTable:
    """The rows of a file of the folder; a copy of a gzipped one is added to `copies`."""
    source = only_source(matches, path)
    copy = copy_of(path)
    if copy is not None:
        copies.append(copy)
        path = copy.path
    require_file(path, display_name(path))
    return source.rows(path, labels)


SOURCE = Source("folder", "a folder with metrics.csv, metrics.jsonl or metrics.parquet", sniff, read)
