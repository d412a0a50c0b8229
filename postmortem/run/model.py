"""`Run`: one training effort as the rest of the program sees it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UnreadableInput
from postmortem.jsonio import read_object
from postmortem.run.checkpoints import Checkpoint
from postmortem.run.columns import canonical_order
from postmortem.run.history import HistoryView, RowKeys, Segment, history_view, segments
from postmortem.run.journal import EventLog
from postmortem.run.manifest import Manifest
from postmortem.run.naming import Names, is_label
from postmortem.run.table import Table
from postmortem.series import Series, Steps
from postmortem.text import plain, row_range

if TYPE_CHECKING:
    import pandas as pd

_RANK = re.compile(r"(.+)/rank(\d+)")
TEXTS = frozenset({"batch_hash", "source", "param_hash", "param_hash_part"})
_KEY_NAMES = frozenset({"attempt", "step", "rank"})


@dataclass(frozen=True, slots=True, eq=False)
class LabelSeries:
    """The rows in which one column of text or lists was logged: step int64[n] increasing, value object[n]."""

    name: str
    step: Steps
    value: NDArray[np.object_]

    def __len__(self) -> int:
        return int(self.step.size)

    def __repr__(self) -> str:
        return f"<LabelSeries {plain(self.name, 80)}: {row_range(self.step)}>"

    def at(self, step: int) -> object:
        """The value logged at `step`, or None where the column was not logged there."""
        i = int(np.searchsorted(self.step, step))
        return self.value[i] if i < self.step.size and self.step[i] == step else None


@dataclass(frozen=True, eq=False)
class Log:
    """One table with the meaning of its columns and the keys of its rows. `silent` columns have placeholders only."""

    table: Table
    names: Names
    keys: RowKeys
    silent: frozenset[str] = frozenset()

    def column(self, name: str) -> str | None:
        """The log's own name of a canonical or unknown column, or None where it has no such column."""
        if name in self.names.logged_as:
            return None if name in self.silent or name in _KEY_NAMES else self.names.logged_as[name]
        return name if name in self.names.unknown else None


class Run:
    """A run that was read: immutable; each column is read when it is first used.

    `columns` are the canonical names with at least one logged value, `blank_columns` those without one, `other_columns`
    the log's names without a known meaning (they can be read, too). `row_steps` are all steps of the effective history
    that have a metrics row, with or without a loss. `smoothed` are the canonical names of columns that the log itself
    smoothed, such as a running mean of the loss: a spike of one row stands lower and longer in them than it was.
    """

    def __init__(
        self,
        *,
        path: Path,
        root: Path | None,
        source: str,
        manifest: Manifest,
        journal: EventLog,
        checkpoints: Sequence[Checkpoint],
        notes: Sequence[str],
        metrics: Log,
        batches: Log | None,
    ) -> None:
        self.path, self.root, self.source, self.manifest = path, root, source, manifest
        self.id = manifest.id or plain(root.name if root else path.resolve().stem) or "run"
        self.journal, self.checkpoints, self.notes = journal, tuple(checkpoints), tuple(notes)
        self.held: object = None  # what has to live as long as columns are read, such as a temporary file
        self._logs = (metrics,) if batches is None else (metrics, batches)
        self._spans = _spans(metrics.keys, None if batches is None else batches.keys)
        self.segments: tuple[Segment, ...] = segments(self._spans)
        self.ranks: tuple[int, ...] = metrics.keys.ranks()
        self._views: dict[tuple[int, int | None], HistoryView] = {}
        self._series: dict[tuple[str, int | None], Series | None] = {}
        self._labels: dict[tuple[str, int | None], LabelSeries | None] = {}
        self.row_steps: Steps = self._view(0, None).row_steps
        self.smoothed: frozenset[str] = metrics.names.smoothed
        self._logged_names = tuple(
            frozenset(n for n in log.names.logged_as if _any_logged(log, n)) for log in self._logs
        )
        logged = {name for names in self._logged_names for name in names}
        per_rank = {f"loss/rank{r}" for r in self.ranks} if len(self.ranks) > 1 and "loss" in logged else set[str]()
        self.columns: tuple[str, ...] = tuple(sorted(logged | per_rank, key=canonical_order))
        known = {name for log in self._logs for name in log.names.logged_as}
        self.blank_columns: tuple[str, ...] = tuple(sorted(known - logged - _KEY_NAMES, key=canonical_order))
        self.other_columns: tuple[str, ...] = tuple(sorted({n for log in self._logs for n in log.names.unknown}))

    def __repr__(self) -> str:
        return f"<Run {plain(self.id, 60)}: {self.source}, {row_range(self.row_steps)}, {len(self.columns)} columns>"

    def series(self, name: str, *, attempt: int | None = None) -> Series | None:
        """A column of numbers over the effective history, or None where it was never logged.

        With `attempt`, the lineage as that attempt saw it: the effective history up to its start, then its own rows,
        discarded rows included. Several ranks are averaged (NaN and Inf propagate); `<name>/rank<r>` is a single rank.
        """
        key = (name, attempt)
        if key not in self._series:
            self._series[key] = self._read_series(name, attempt)
        return self._series[key]

    def steps(self, *, attempt: int | None = None) -> Steps:
        """Every step that has a metrics row, int64[n] increasing: `row_steps`, or those of one attempt's lineage."""
        return self._view(0, attempt).row_steps

    @property
    def logs(self) -> tuple[Log, ...]:
        """The tables that were read, with the meaning of their columns: metrics, and batches where there are any."""
        return self._logs

    @property
    def rows_alone(self) -> bool:
        """Whether the run is one table of one attempt, without journal and checkpoints: nothing else names a step."""
        return len(self._logs) == len(self.segments) == 1 and not self.journal and not self.checkpoints

    def with_steps(self, steps: Steps) -> Run:
        """The same rows at other steps, int64[n] increasing: row k is at `steps[k]`. Only of a run of `rows_alone`."""
        log = self._logs[0]
        keys = replace(log.keys, step=steps[np.searchsorted(self.row_steps, log.keys.step)])
        run = Run(
            path=self.path,
            root=self.root,
            source=self.source,
            manifest=self.manifest,
            journal=self.journal,
            checkpoints=self.checkpoints,
            notes=self.notes,
            metrics=replace(log, keys=keys),
            batches=None,
        )
        run.id, run.held = self.id, self.held
        return run

    def epoch(self, *, attempt: int | None = None) -> Series | None:
        """The number of the epoch in each row, which may grow by fractions, over the same rows as `series`; None where
        no column of a known name counts epochs."""
        names = (log.names.epoch for log in self._logs)
        return next((s for name in names if name and (s := self.series(name, attempt=attempt)) is not None), None)

    def labels(self, name: str, *, attempt: int | None = None) -> LabelSeries | None:
        """A column of text or lists over the same rows as `series`; of several ranks, the lowest one's."""
        key = (name, attempt)
        if key not in self._labels:
            self._labels[key] = self._read_labels(name, attempt)
        return self._labels[key]

    def to_pandas(self, columns: Sequence[str] | None = None, *, attempt: int | None = None) -> pd.DataFrame:
        """Columns over the effective history (or `attempt`'s lineage, as in `series`), indexed by `step`, ascending.

        Numbers are `double[pyarrow]`, in which <NA> is "not logged" and NaN a non-finite measurement; text and lists
        are Arrow's, too. `attrs["units"]` maps column → unit. Arithmetic of pandas 3 turns NaN into <NA> unless
        `pandas.options.future.distinguish_nan_and_na` is set; reading, selecting and saving do not.

        Args:
            columns: names to take, also of `other_columns` or `<name>/rank<r>`; None takes `self.columns`.
            attempt: an attempt's number; None is the effective history.

        Raises:
            KeyError: no such column.
            ValueError: no such attempt, or a name instead of a list of names.

        Example:
            >>> run = pm.open_run("sample_runs/19-spike-001")
            >>> run.to_pandas(["loss", "eval_loss"]).shape
            (2000, 2)
        """
        from postmortem.run.frame import Logged, frame

        if isinstance(columns, str):
            raise ValueError(f"columns={columns!r}: expected a list of names, as in [{columns!r}]")
        attempts = sorted({segment.attempt for segment in self.segments})
        if attempt is not None and attempt not in attempts:
            raise ValueError(f"attempt={attempt}: the run has {', '.join(map(str, attempts))}")
        read: dict[str, Logged] = {}
        for name in self.columns if columns is None else columns:
            column = self.series(name, attempt=attempt) or self.labels(name, attempt=attempt)
            if column is None and name not in {*self.columns, *self.other_columns}:
                raise KeyError(name)
            read[name] = (np.zeros(0, np.int64), np.zeros(0)) if column is None else (column.step, column.value)
        return frame(self.steps(attempt=attempt), read)

    def origin(self, name: str) -> str:
        """Where a column's values come from: `metrics.csv, column train/loss`.

        Raises:
            KeyError: no such column.
        """
        for candidate, _ in self._candidates(name):
            for log, logged in zip(self._logs, self._logged_names, strict=True):
                column = log.column(candidate)
                if column is not None and candidate in logged:
                    return f"{log.table.display_name}, column {plain(column, 80)}"
        for log in self._logs:
            if name in log.names.unknown:
                return f"{log.table.display_name}, column {plain(name, 80)}"
        raise KeyError(name)

    def vocab(self) -> Sequence[str] | None:
        """The decode table: the piece of token id i at index i. None where the run has no table.

        Raises:
            UnreadableInput: the file that run.json names is no decode table.
        """
        if self.root is None or self.manifest.vocab is None:
            return None
        file = self.root / self.manifest.vocab
        if not file.is_file():
            return None
        tokens = read_object(file).get("tokens")
        if not isinstance(tokens, list):
            raise UnreadableInput('expected {"tokens": ["piece", …]}.', file=plain(self.manifest.vocab))
        return tuple(str(token) for token in cast(list[object], tokens))

    def _candidates(self, name: str) -> list[tuple[str, int | None]]:
        """(column, rank) to try in turn: the name as it is, then one rank of a column of all ranks."""
        match = _RANK.fullmatch(name)
        ranked = [(match[1], int(match[2]))] if match and len(self.ranks) > 1 else []
        return [(name, None), *ranked]

    def _view(self, log: int, attempt: int | None) -> HistoryView:
        key = (log, attempt)
        if key not in self._views:
            keys = self._logs[log].keys
            spans = self._spans if set(keys.attempts()) <= set(self._spans) else keys.spans()
            self._views[key] = history_view(keys, {a: first for a, (first, _) in spans.items()}, attempt)
        return self._views[key]

    def _read_series(self, name: str, attempt: int | None) -> Series | None:
        for candidate, rank in self._candidates(name):
            for i, log in enumerate(self._logs):
                column = log.column(candidate)
                read = None if column is None or is_label(candidate) else log.table.numbers(column)
                if read is None:
                    continue
                step, value = self._view(i, attempt).numbers(read, rank)
                if step.size:
                    return Series(name, step, value)
        return None

    def _read_labels(self, name: str, attempt: int | None) -> LabelSeries | None:
        for candidate, rank in self._candidates(name):
            for i, log in enumerate(self._logs):
                column = log.column(candidate)
                if column is None:
                    continue
                step, value = self._view(i, attempt).objects(log.table.objects(column), rank)
                if step.size:
                    return LabelSeries(name, step, _texts(value) if candidate in TEXTS else value)
        return None


def _spans(metrics: RowKeys, batches: RowKeys | None) -> dict[int, tuple[int, int]]:
    """attempt → (first, last step) of the metrics rows; an attempt that starts earlier in batches starts there."""
    spans = metrics.spans()
    if batches is None or len(spans) < 2 or set(batches.attempts()) != set(spans):
        return spans
    batch_spans = batches.spans()
    return {a: (min(first, batch_spans[a][0]), last) for a, (first, last) in spans.items()}


def _texts(values: NDArray[np.object_]) -> NDArray[np.object_]:
    """Labels that are compared as text: a log may have lists instead, which cannot be compared or hashed."""
    if all(v is None or isinstance(v, str) for v in values):
        return values
    out = np.full(values.size, None, np.object_)
    out[:] = [v if v is None else str(v) for v in values]
    return out


def _any_logged(log: Log, name: str) -> bool:
    """Whether a column has a value of its kind: by its statistics or, for text and without finite values, by reading
    it."""
    column = log.column(name)
    if column is None:
        return False
    bounds = log.table.bounds(column)
    if bounds is not None and (bounds.nulls == log.table.rows or is_label(name) or bounds.low is not None):
        return bounds.nulls < log.table.rows
    if is_label(name):
        return any(value is not None for value in log.table.objects(column))
    read = log.table.numbers(column)
    return read is not None and read.nulls < log.table.rows
