"""The output folder of Hugging Face's Trainer: its trainer_state.json, or that of its newest checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from postmortem.run import Run
from postmortem.run.manifest import MANIFESTS
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._files import require_file
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.sources.hugging_face import LIMITS, NAME
from postmortem.sources.json_rows import read_table

_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})")
_STEP = re.compile(rb'"global_step"\s*:\s*(\d{1,18})\b')
_EVENTS = "events.out.tfevents"
_HEAD = 64 * 2**10  # bytes


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A folder with a trainer_state.json in it, or in a folder checkpoint-<step>, and no files of a bare folder."""
    if any(name in MANIFESTS or name.startswith(("metrics.", "batches.")) for name in candidate.names):
        return None
    if NAME in candidate.names:
        events = any(_EVENTS in name for name in candidate.names)  # they say the same, with less
        return FormatMatch(Confidence.CERTAIN if events else Confidence.LIKELY, f"it contains a {NAME}")
    if any((candidate.path / name / NAME).is_file() for name in _checkpoints(candidate.names)):
        return FormatMatch(Confidence.LIKELY, f"its checkpoints contain a {NAME}")
    return None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """The rows of the state that was written last: each contains all rows before it.

    Raises:
        UnreadableInput: the file is no JSON with a log_history.
    """
    names = [f"{name}/{NAME}" for name in _checkpoints(name.name for name in path.iterdir())]
    newest = next((name for name in names if (path / name).is_file()), NAME)
    own = path / NAME
    if own.is_file() and _step(own) >= int(match[1] if (match := _CHECKPOINT.match(newest)) else 0):
        newest = NAME
    require_file(path / newest, newest)
    labels = label_names(mapping)
    table = replace(read_table(path / newest, labels), display_name=newest)
    notes = [] if newest == NAME else [f"{newest} is the newest log in the folder: it was read"]
    return assemble(SOURCE, path, path, SourceTable(table, SOURCE), None, mapping, notes)


def _checkpoints(names: Iterable[str]) -> list[str]:
    """The names of checkpoints, newest first."""
    matches = [match for name in names if (match := _CHECKPOINT.fullmatch(name))]
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]), reverse=True)]


def _step(file: Path) -> int:
    """The step at which a state was written, which stands at its beginning; 0 where it does not."""
    with file.open("rb") as opened:
        match = _STEP.search(opened.read(_HEAD))
    return int(match[1]) if match else 0


SOURCE = Source("Hugging Face folder", "a Trainer's output folder", sniff, read, limits=LIMITS)
