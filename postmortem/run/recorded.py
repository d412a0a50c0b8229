"""What a run recorded of its steps, held ready for a replay to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from postmortem.change import Change, Window
from postmortem.errors import UnreadableInput
from postmortem.run import LabelSeries, Run
from postmortem.run.journal import Event, step_number
from postmortem.series import Series, Steps
from postmortem.text import plain

IDENTITY = ("batch_hash", "loss", "grad_norm", "param_hash")  # in the order in which a difference is blamed
PAST_BATCHES = 1000


@dataclass(frozen=True)
class Phase:
    """Changes that hold from `from_step` on: those of a replay that the run itself is, or of a rollback in it."""

    from_step: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Resume:
    """A resume of the run at `step` that took over `parts` of the state and left out the rest."""

    step: int
    parts: tuple[str, ...]


class RecordedRun:
    """The rows of `run` along one lineage: the effective history, or that of `attempt`; of one rank."""

    def __init__(self, run: Run, attempt: int | None = None, rank: int = 0) -> None:
        self.run, self.attempt = run, attempt
        self._suffix = f"/rank{rank}" if len(run.ranks) > 1 and rank in run.ranks else ""

    @property
    def config(self) -> dict[str, Any]:
        """The config that the program is built of."""
        return dict(self.run.manifest.config)

    @cached_property
    def last_step(self) -> int:
        """The last step that has a row; -1 where none has."""
        steps = self.run.steps(attempt=self.attempt)
        return int(steps[-1]) if steps.size else -1

    def series(self, name: str, before: int = 2**62) -> Series | None:
        """A column before a step, None where it was never logged."""
        whole_run = self.run.series(f"{name}{self._suffix}", attempt=self.attempt) if self._suffix else None
        found = self.run.series(name, attempt=self.attempt) if whole_run is None else whole_run
        return None if found is None else found.window(0, before)

    def rows(self, name: str, first: int, last: int) -> dict[int, float | str]:
        """Step → what a column holds there, for first <= step < last: plain values, to be looked up step by step."""
        column = self._labels(name) if name.endswith("_hash") else self.series(name)
        if column is None:
            return {}
        low, high = np.searchsorted(column.step, [first, last])
        found = zip(column.step[low:high].tolist(), column.value[low:high].tolist(), strict=True)
        return {step: value for step, value in found if isinstance(value, (float, str))}

    def index_at(self, step: int) -> int:
        """Index of the batch that the run consumed at `step`; one batch a step is assumed where none is logged."""
        return int(self._indices_at(np.array([step]))[0])

    def _indices_at(self, steps: Steps) -> Steps:
        """The same of many steps: int64[n]."""
        known = self._indices
        if known is None or not len(known):
            return steps
        at = np.searchsorted(known.step, steps, side="right") - 1
        found = known.value[np.maximum(at, 0)].astype(np.int64) + steps - known.step[np.maximum(at, 0)]
        return np.where(at < 0, steps, found)

    @cached_property
    def _indices(self) -> Series | None:
        return self.series("batch_index")

    def step_of(self, index: int) -> int:
        """The first step that consumed the batch at `index`, or would have had it followed the last row."""
        known = self._indices
        if known is None or not len(known):
            return index
        reached = np.flatnonzero(known.value >= index)
        if reached.size:
            return int(known.step[reached[0]])
        return int(known.step[-1]) + index - int(known.value[-1])

    @cached_property
    def last_index(self) -> int:
        """The highest index that the run consumed in any attempt."""
        index = self.run.series("batch_index")
        found = [self.last_step] if index is None or not len(index) else [int(np.nanmax(index.value))]
        for segment in (s for s in self.run.segments if s.discarded):
            own = self.run.series("batch_index", attempt=segment.attempt)
            found += [int(np.nanmax(own.value))] if own is not None and len(own) else []
        return max(found)

    @cached_property
    def _hash_by_index(self) -> dict[int, str]:
        steps, hashes = self._hashes
        return dict(zip(self._indices_at(steps).tolist(), hashes, strict=True))

    def hash_of(self, index: int) -> str | None:
        """The hash of the batch at `index` when the run consumed it; None where it did not."""
        return self._hash_by_index.get(index)

    def worst_tokens(self, index: int) -> frozenset[int]:
        """Ids of the tokens that cost most when the run consumed the batch at `index`; none where it recorded none."""
        consumed, worst = self.series("batch_index"), self._labels("worst_token_ids")
        at = np.zeros(0, np.int64) if consumed is None else consumed.step[consumed.value == index]
        value = worst.at(int(at[-1])) if worst is not None and at.size else None
        held = cast(list[object], list(value)) if isinstance(value, (list, tuple, np.ndarray)) else []
        return frozenset(int(one) for one in held if isinstance(one, (int, np.integer)))

    def repeated(self, since: int) -> Steps:
        """int64[n]: indices consumed from step `since` on whose batch was one of the 1,000 before it."""
        steps, hashes = self._hashes
        last: dict[str, int] = {}
        found: list[int] = []
        for row, text in enumerate(hashes):
            if steps[row] >= since and row - last.get(text, -PAST_BATCHES - 1) <= PAST_BATCHES:
                found.append(self.index_at(int(steps[row])))
            last[text] = row
        return np.array(found, np.int64)

    @cached_property
    def _hashes(self) -> tuple[Steps, list[str]]:
        labels = self._labels("batch_hash")
        if labels is None:
            return np.zeros(0, np.int64), []
        return labels.step, [str(value) for value in labels.value]

    @cached_property
    def _lineage_events(self) -> list[Event]:
        """Resumes and rollbacks whose rows are part of this lineage: a later return to before them undoes them."""
        kept: list[Event] = []
        attempt = 0
        for event in self.run.journal:
            told = step_number(event.keys.get("attempt"))
            attempt = max(attempt, told or 0)
            if self.attempt is not None and attempt > self.attempt:
                break
            target = step_number(event.keys.get({"resume": "from_step", "rollback": "to_step"}.get(event.event, "")))
            if target is not None:
                undone = {"resume": ("resume",), "rollback": ("resume", "rollback")}[event.event]
                kept = [one for one in kept if _target(one) < target or (one.event not in undone)]
                kept = [one for one in kept if _target(one) <= target]
                kept.append(event)
        return kept

    @property
    def resumes(self) -> tuple[Resume, ...]:
        """Resumes of this lineage that left out a part of the state, by step."""
        found: list[Resume] = []
        for event in self._lineage_events:
            missing, restored = event.keys.get("missing"), event.keys.get("restored")
            if event.event == "resume" and isinstance(missing, list) and missing and isinstance(restored, list):
                found.append(Resume(_target(event), tuple(str(part) for part in cast(list[object], restored))))
        return tuple(found)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Changes under which the run itself was driven, by step: its lineage's, else the skip windows of rollbacks
        that its journal tells of."""
        lineage = self.run.manifest.lineage or {}
        told = lineage.get("phases")
        if isinstance(told, list):
            phases = tuple(_phase(one) for one in cast(list[object], told))
            if self.attempt is None:
                return phases
            begun = {_target(e) for e in self.run.journal if e.event == "rollback" and self._has_seen(e)}
            return tuple(one for one in phases if one.from_step in begun)
        found: list[Phase] = []
        for event in self._lineage_events:
            windows = event.keys.get("skip")
            if event.event == "rollback" and isinstance(windows, list) and windows:
                found.append(Phase(_target(event), (Change("skip", _windows(event, cast(list[object], windows))),)))
        return tuple(found)

    def _has_seen(self, event: Event) -> bool:
        return self.attempt is None or (step_number(event.keys.get("attempt")) or 0) <= self.attempt

    def _labels(self, name: str) -> LabelSeries | None:
        own = self.run.labels(f"{name}{self._suffix}", attempt=self.attempt) if self._suffix else None
        return self.run.labels(name, attempt=self.attempt) if own is None else own


def _windows(event: Event, windows: list[object]) -> tuple[Window, ...]:
    spans = [cast(list[object], one) for one in windows if isinstance(one, list)]
    sound = [(a, b) for a, b in (s for s in spans if len(s) == 2) if type(a) is int and type(b) is int and 0 <= a < b]
    if len(sound) != len(windows):
        raise UnreadableInput(
            f"the rollback to step {_target(event)} tells of skip windows that are none.",
            file="journal.jsonl",
            line=event.line,
        )
    return tuple(sound)


def _phase(told: object) -> Phase:
    facts = cast(Mapping[str, Any], told) if isinstance(told, Mapping) else {}
    step = step_number(facts.get("from_step"))
    if step is None:
        raise UnreadableInput("lineage: a phase without a step from which it holds.", file="run.json")
    told_changes = facts.get("changes", [])
    try:
        if not isinstance(told_changes, list) or not all(isinstance(one, str) for one in told_changes):
            raise ValueError(f'expected a list of texts, as in ["skip=312:512"], found {plain(told_changes, 60)}')
        return Phase(step, tuple(map(Change.from_text, cast(list[str], told_changes))))
    except ValueError as error:
        raise UnreadableInput(f"lineage: changes of a phase: {plain(error, 200)}.", file="run.json") from error


def _target(event: Event) -> int:
    return step_number(event.keys.get("from_step" if event.event == "resume" else "to_step")) or 0
