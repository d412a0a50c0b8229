"""Reads what a run recorded about its steps, so that a replay can be compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from postmortem.change import Change, Window
from postmortem.errors import UnreadableInput
from postmortem.run import LabelSeries, Run
from postmortem.run.journal import Event, EventLog, step_number
from postmortem.series import Series, Steps
from postmortem.text import plain

IDENTITY_COLUMNS = ("batch_hash", "loss", "grad_norm", "param_hash")  # in the order in which a difference is blamed
PAST_BATCHES = 1000


@dataclass(frozen=True)
class ChangeSet:
    """Changes that act from `from_step` on: those of the replay that wrote the run, or of a rollback in it."""

    from_step: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Resume:
    """A resume of the run at `step` that restored only these `parts` of the state."""

    step: int
    parts: tuple[str, ...]


class RecordedRun:
    """The rows of `run` along one lineage: the effective history, or that of `attempt`; of one rank."""

    def __init__(self, run: Run, attempt: int | None = None, rank: int = 0) -> None:
        self.run, self.attempt = run, attempt
        self._suffix = f"/rank{rank}" if len(run.ranks) > 1 and rank in run.ranks else ""

    @property
    def config(self) -> dict[str, Any]:
        """The config from which the program is built."""
        return dict(self.run.manifest.config)

    @cached_property
    def last_step(self) -> int:
        """The last step that has a row; -1 if there are no rows."""
        steps = self.run.steps(attempt=self.attempt)
        return int(steps[-1]) if steps.size else -1

    def series(self, name: str, before: int = 2**62) -> Series | None:
        """The rows of a column before a step; None if it was never logged."""
        of_rank = self.run.series(f"{name}{self._suffix}", attempt=self.attempt) if self._suffix else None
        series = self.run.series(name, attempt=self.attempt) if of_rank is None else of_rank
        return None if series is None else series.window(0, before)

    def rows(self, name: str, first: int, last: int) -> dict[int, float | str]:
        """Step → value of a column, for first <= step < last: plain values, for a lookup at each step."""
        column = self._labels(name) if name.endswith("_hash") else self.series(name)
        if column is None:
            return {}
        low, high = np.searchsorted(column.step, [first, last])
        pairs = zip(column.step[low:high].tolist(), column.value[low:high].tolist(), strict=True)
        return {step: value for step, value in pairs if isinstance(value, (float, str))}

    def batch_index_at(self, step: int) -> int:
        """Index of the batch that the run consumed at `step`; if none is logged, one batch per step is assumed."""
        return int(self._batch_indices_at(np.array([step]))[0])

    def _batch_indices_at(self, steps: Steps) -> Steps:
        """The same for many steps: int64[n]."""
        logged = self._logged_indices
        if logged is None or not len(logged):
            return steps
        rows = np.searchsorted(logged.step, steps, side="right") - 1
        indices = logged.value[np.maximum(rows, 0)].astype(np.int64) + steps - logged.step[np.maximum(rows, 0)]
        return np.where(rows < 0, steps, indices)

    @cached_property
    def _logged_indices(self) -> Series | None:
        return self.series("batch_index")

    def step_of_batch(self, index: int) -> int:
        """The first step that consumed the batch at `index`, or the step that would have if the run had continued."""
        logged = self._logged_indices
        if logged is None or not len(logged):
            return index
        reached = np.flatnonzero(logged.value >= index)
        if reached.size:
            return int(logged.step[reached[0]])
        return int(logged.step[-1]) + index - int(logged.value[-1])

    @cached_property
    def last_batch_index(self) -> int:
        """The highest batch index that the run consumed in any attempt."""
        index = self.run.series("batch_index")
        highest = [self.last_step] if index is None or not len(index) else [int(np.nanmax(index.value))]
        for segment in (s for s in self.run.segments if s.discarded):
            discarded = self.run.series("batch_index", attempt=segment.attempt)
            highest += [int(np.nanmax(discarded.value))] if discarded is not None and len(discarded) else []
        return max(highest)

    @cached_property
    def _hash_by_index(self) -> dict[int, str]:
        steps, hashes = self._batch_hashes
        return dict(zip(self._batch_indices_at(steps).tolist(), hashes, strict=True))

    def batch_hash_at(self, index: int) -> str | None:
        """The hash that the run recorded for the batch at `index`; None if there is none."""
        return self._hash_by_index.get(index)

    def costliest_tokens(self, index: int) -> frozenset[int]:
        """Ids of the tokens with the highest loss in the batch at `index`, as far as the run recorded them."""
        consumed, worst = self.series("batch_index"), self._labels("worst_token_ids")
        steps = np.zeros(0, np.int64) if consumed is None else consumed.step[consumed.value == index]
        value = worst.at(int(steps[-1])) if worst is not None and steps.size else None
        ids = cast(list[object], list(value)) if isinstance(value, (list, tuple, np.ndarray)) else []
        return frozenset(int(token) for token in ids if isinstance(token, (int, np.integer)))

    def repeated_batches(self, since: int) -> Steps:
        """int64[n]: indices consumed from step `since` on whose batch repeats one of the 1,000 batches before it."""
        steps, hashes = self._batch_hashes
        last_row: dict[str, int] = {}
        indices: list[int] = []
        for row, batch_hash in enumerate(hashes):
            if steps[row] >= since and row - last_row.get(batch_hash, -PAST_BATCHES - 1) <= PAST_BATCHES:
                indices.append(self.batch_index_at(int(steps[row])))
            last_row[batch_hash] = row
        return np.array(indices, np.int64)

    @cached_property
    def _batch_hashes(self) -> tuple[Steps, list[str]]:
        labels = self._labels("batch_hash")
        if labels is None:
            return np.zeros(0, np.int64), []
        return labels.step, [str(value) for value in labels.value]

    @cached_property
    def _lineage(self) -> list[int]:
        """Positions in the journal of the resumes and rollbacks whose rows are part of this lineage, by the steps to
        which they return: a later return to an earlier step undoes them. At the same step a rollback undoes both, and a
        resume only resumes."""
        journal = self.run.journal
        kept: list[int] = []
        for position in range(len(journal)):
            if self.attempt is not None and (journal.attempt(position) or 0) > self.attempt:
                break
            target = journal.target(position)
            if target is None:
                continue
            undone = ("resume",) if journal.name(position) == "resume" else ("resume", "rollback")
            while kept and (
                (before := _target(journal, kept[-1])) > target
                or (before == target and journal.name(kept[-1]) in undone)
            ):
                kept.pop()
            kept.append(position)
        return kept

    @property
    def resumes(self) -> tuple[Resume, ...]:
        """Resumes of this lineage that lost a part of the state, by step."""
        resumes: list[Resume] = []
        for event in map(self.run.journal.__getitem__, self._lineage):
            missing, restored = event.keys.get("missing"), event.keys.get("restored")
            if event.event == "resume" and isinstance(missing, list) and missing and isinstance(restored, list):
                resumes.append(Resume(_target_step(event), tuple(str(part) for part in cast(list[object], restored))))
        return tuple(resumes)

    @property
    def earlier_change_sets(self) -> tuple[ChangeSet, ...]:
        """Changes that acted in the run itself, by step: those in its lineage, or else the skip windows of the
        rollbacks in its journal."""
        lineage = self.run.manifest.lineage or {}
        entries = lineage.get("phases")
        if isinstance(entries, list):
            in_lineage = tuple(_read_change_set(entry) for entry in cast(list[object], entries))
            if self.attempt is None:
                return in_lineage
            journal = self.run.journal
            of_attempt = (i for i in journal.positions("rollback") if (journal.attempt(i) or 0) <= self.attempt)
            started = {_target(journal, i) for i in of_attempt}
            return tuple(change_set for change_set in in_lineage if change_set.from_step in started)
        change_sets: list[ChangeSet] = []
        for event in map(self.run.journal.__getitem__, self._lineage):
            windows = event.keys.get("skip")
            if event.event == "rollback" and isinstance(windows, list) and windows:
                skip = Change("skip", _skip_windows(event, cast(list[object], windows)))
                change_sets.append(ChangeSet(_target_step(event), (skip,)))
        return tuple(change_sets)

    def _labels(self, name: str) -> LabelSeries | None:
        of_rank = self.run.labels(f"{name}{self._suffix}", attempt=self.attempt) if self._suffix else None
        return self.run.labels(name, attempt=self.attempt) if of_rank is None else of_rank


def _skip_windows(event: Event, windows: list[object]) -> tuple[Window, ...]:
    pairs = [cast(list[object], pair) for pair in windows if isinstance(pair, list)]
    sound = [(a, b) for a, b in (s for s in pairs if len(s) == 2) if type(a) is int and type(b) is int and 0 <= a < b]
    if len(sound) != len(windows):
        raise UnreadableInput(
            f"the rollback to step {_target_step(event)} has skip windows that are not valid.",
            file="journal.jsonl",
            line=event.line,
        )
    return tuple(sound)


def _read_change_set(entry: object) -> ChangeSet:
    fields = cast(Mapping[str, Any], entry) if isinstance(entry, Mapping) else {}
    step = step_number(fields.get("from_step"))
    if step is None:
        raise UnreadableInput("lineage: a phase without the step from which it acts.", file="run.json")
    try:
        return ChangeSet(step, tuple(map(Change.from_text, _list_of_texts(fields.get("changes", [])))))
    except ValueError as error:
        raise UnreadableInput(f"lineage: changes of a phase: {plain(error, 200)}.", file="run.json") from error


def _list_of_texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in cast(list[object], value)):
        raise ValueError(f'expected a list of texts, as in ["skip=312:512"], found {plain(value, 60)}')
    return cast(list[str], value)


def _target(journal: EventLog, position: int) -> int:
    return journal.target(position) or 0


def _target_step(event: Event) -> int:
    return step_number(event.keys.get("from_step" if event.event == "resume" else "to_step")) or 0
