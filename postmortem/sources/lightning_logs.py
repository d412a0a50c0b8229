"""Lightning's folders: `lightning_logs/` with one for each version, and the metrics.csv of a version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.run.manifest import Manifest, read_mapping
from postmortem.sources._assemble import assemble, label_names
from postmortem.sources._below import contents, runs_below
from postmortem.sources._files import require_file
from postmortem.sources._runs import only_run
from postmortem.sources._source import Candidate, Confidence, FormatMatch, Source, SourceTable
from postmortem.sources.csv_rows import read_table
from postmortem.text import plain

_VERSION = re.compile(r"version_(\d{1,9})")
_SETTINGS, _ROWS = "hparams.yaml", "metrics.csv"


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A folder of versions, or one with metrics.csv and hparams.yaml."""
    if {_SETTINGS, _ROWS} <= set(candidate.names):
        return FormatMatch(Confidence.LIKELY, f"it contains Lightning's {_ROWS} and {_SETTINGS}")
    versions = [candidate.path / name for name in candidate.names if _VERSION.fullmatch(name)]
    if versions and (candidate.name == "lightning_logs" or (versions[0] / _SETTINGS).is_file()):
        return FormatMatch(Confidence.CERTAIN, "it contains folders version_<n>, as Lightning's loggers make them")
    return None


def read(path: Path, mapping: Mapping[str, str]) -> Run:
    """The rows of a version, or of the only version.

    Raises:
        SeveralRuns: there are several versions, newest first.
        UnreadableInput: none contains a log.
    """
    if (path / _ROWS).exists():
        return _read_version(path, mapping)
    below = {name: reader for name, reader in runs_below(path, mapping).items() if _VERSION.fullmatch(name)}
    if not below:
        raise UnreadableInput(f"no version of Lightning's with a log. It holds {contents(path)}.", file=plain(path))
    newest_first = sorted(below, key=lambda name: int(name.removeprefix("version_")), reverse=True)
    return only_run("Lightning's logs", path, {name: below[name] for name in newest_first})


def _read_version(path: Path, mapping: Mapping[str, str]) -> Run:
    require_file(path / _ROWS, _ROWS)
    table = read_table(path / _ROWS, label_names(mapping))
    config: Mapping[str, object] = {}
    notes: list[str] = []
    try:
        config = read_mapping(path / _SETTINGS) if (path / _SETTINGS).stat().st_size > len("{}\\n") else {}
    except UnreadableInput:
        notes.append(f"{_SETTINGS}: cannot be read: its settings are not known")
    about = Manifest(config=config)
    return assemble(SOURCE, path, path, SourceTable(table, SOURCE), None, mapping, notes, about=about)


SOURCE = Source(
    "Lightning logs",
    "Lightning's folder lightning_logs/",
    sniff,
    read,
    limits=("Lightning logs each log_every_n_steps (50) steps only: what happened between is not in it",),
)
