"""W&B's own files: `run-<id>.wandb`, and the folders `wandb/`, `offline-run-…/` and `latest-run` that contain them.

Several folders of one run id are one run that was resumed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from types import MappingProxyType

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.naming import name_list
from postmortem.run.rows import Collector
from postmortem.run.table import Table, table_of
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._files import display_name
from postmortem.sources._source import Candidate, CanonicalNames, Confidence, FormatMatch, Source, SourceTable
from postmortem.sources._wandb_file import MAGIC, WandbFile, read_wandb_file
from postmortem.text import plain

_ENDING = ".wandb"
_RUN_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(?P<id>.+)")
_STEPS = ("trainer/global_step", "train/global_step", "global_step")
"""Keys of the trainer's own step, best first: `_step` counts the calls of log(), unless the program gave it."""

_METRICS = ("metrics.csv", "metrics.jsonl", "metrics.parquet")
_MOST_FOLDERS = 10_000


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A file with W&B's mark, the folder of a run, a folder of such folders, or one with `wandb/` in it."""
    if candidate.is_dir:
        return _sniff_folder(candidate)
    if candidate.head.startswith(MAGIC):
        return FormatMatch(Confidence.CERTAIN, "it begins with W&B's mark")
    if candidate.ending == _ENDING:
        return FormatMatch(Confidence.POSSIBLE, "its name ends in .wandb")
    return None


def _sniff_folder(candidate: Candidate) -> FormatMatch | None:
    names = candidate.names
    if any(name in _METRICS for name in names):
        return None
    if any(name.endswith(_ENDING) for name in names):
        return FormatMatch(Confidence.CERTAIN, "it contains a .wandb file")
    if any(map(_RUN_FOLDER.fullmatch, names)):
        return FormatMatch(Confidence.CERTAIN, "it contains folders of W&B's runs")
    if "wandb" in names and _run_folders(candidate.path / "wandb"):
        return FormatMatch(Confidence.POSSIBLE, "its folder wandb/ contains folders of W&B's runs")
    return None


def _run_folders(folder: Path) -> list[Path]:
    """The folders of runs in a folder `wandb/`, oldest first."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_MOST_FOLDERS), strict=False)]
    except OSError:
        return []
    return sorted((folder / name for name in names if _RUN_FOLDER.fullmatch(name)), key=_started)


def _started(folder: Path) -> str:
    return folder.name.removeprefix("offline-")


def files_of(path: Path) -> list[Path]:
    """The .wandb files of the run at `path`, oldest first.

    Raises:
        UnreadableInput: none, or those of several runs; names these, and the line that reads the newest.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(f"*{_ENDING}"))
    if len(files) > 1:
        hint = f"Give one of them, as in: postmortem draft {quote(plain(files[-1], 1000))}"
        raise UnreadableInput(
            f"{len(files)} W&B files: {name_list(f.name for f in files)}.", file=plain(path), hint=hint
        )
    if files:
        return files
    folders = _run_folders(path) or _run_folders(path / "wandb")
    files = [file for folder in folders for file in sorted(folder.glob(f"*{_ENDING}"))]
    if not files:
        raise UnreadableInput(
            "no .wandb file in it.",
            file=plain(path, 1000),
            hint="W&B keeps one in wandb/run-…/ or wandb/offline-run-…/ of the folder in which the program ran.",
        )
    ids = dict.fromkeys(match["id"] for file in files if (match := _RUN_FOLDER.fullmatch(file.parent.name)))
    if len(ids) > 1:
        raise UnreadableInput(
            f"{len(ids)} runs of W&B: {name_list(file.parent.name for file in reversed(files))}.",
            file=plain(path, 1000),
            hint=f"Say which one is meant; the newest: postmortem draft {quote(plain(files[-1].parent, 1000))}",
        )
    return files


def read_table(files: Sequence[Path], labels: frozenset[str] = frozenset()) -> tuple[Table, WandbFile]:
    """(the rows of the files of one run, in their order; what they say about it).

    Raises:
        UnreadableInput: a file is no W&B file, or there is no row.
    """
    name, about = display_name(files[-1]), WandbFile()
    rows = Collector(labels, file=name)
    for file in files:
        read_wandb_file(file, display_name(file), rows, about)
    rows.flush()
    if not rows.rows:
        hint = " ".join(about.notes) or "Did the run call log()?"
        raise UnreadableInput("has no row of logged values.", file=name, hint=hint)
    notes = [*rows.notes(name), *about.notes, *_ending(about, name)]
    if len(files) > 1:
        notes.insert(0, f"{name}: {len(files)} files of run {plain(about.run_id, 60)} were read as one run")
    return table_of(rows.chunks, name, notes, labels), about


def _ending(about: WandbFile, name: str) -> list[str]:
    if about.status is None:
        return [f"{name}: the end of the run is not in it: it goes on, or it was killed"]
    return [f"{name}: the program ended with exit code {about.status}"] if about.status else []


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """Read the run, with its name and config.

    Raises:
        UnreadableInput: what `files_of`, `read_table` or `assemble` cannot read.
    """
    table, about = read_table(files_of(path), label_names(mapping))
    run = assemble(SOURCE, path, None, SourceTable(table, SOURCE), None, mapping)
    seed = about.config.get("seed")
    run.manifest = replace(
        run.manifest,
        id=plain(about.display_name or about.run_id) or None,
        seed=seed if type(seed) is int else None,
        config=MappingProxyType(about.config),
    )
    run.id = run.manifest.id or run.id
    return run


def columns(table: Table, _mapping: Mapping[str, str]) -> CanonicalNames:
    """The trainer's own step goes before the count of the calls of log()."""
    return {name: "step" for name in _STEPS if name in table.names}


SOURCE = Source(
    "W&B offline",
    "a W&B run as it is on disk (.wandb), its folder, or wandb/",
    sniff,
    read,
    lambda path, labels: read_table([path], labels)[0],
    columns,
    limits=("W&B counts calls of log() where the program gives no step of its own",),
)
