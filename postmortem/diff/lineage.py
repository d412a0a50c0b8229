"""Reads from journal, run.json and rows where a run was rolled back or resumed, and which batches it skipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from postmortem.change import Window, format_window
from postmortem.diff.model import ChangedSetting, Rewind
from postmortem.diff.pair import parent
from postmortem.run import Event, Run
from postmortem.run.event_meaning import parse_windows
from postmortem.run.journal import step_number
from postmortem.text import plain

MOST_SKIPS = 20  # jumps of the batch index that count as skips; more of them are the loader's normal stride


def rewinds(run: Run) -> tuple[Rewind, ...]:
    """Rollbacks and resumes of the journal in order, attempts without an event, and the lineage filled in."""
    rewinds: list[Rewind] = []
    attempt = 0
    for event in run.journal.of("run_start", "reopen", "rollback", "resume"):
        counted = step_number(event.keys.get("attempt"))
        if event.event in ("run_start", "reopen", "rollback") and counted is not None:
            attempt = counted
        if event.event == "rollback" and (step := step_number(event.keys.get("to_step"))) is not None:
            rewinds.append(_rollback(event, step, attempt))
        elif event.event == "resume" and (step := step_number(event.keys.get("from_step"))) is not None:
            resumed = _resume(event, step, attempt)
            last = rewinds[-1] if rewinds else None
            if last is not None and last.kind == "rollback" and (last.step, last.attempt) == (step, attempt):
                rewinds[-1] = dataclasses.replace(last, missing=resumed.missing, altered=resumed.altered)
            else:
                rewinds.append(resumed)
    steps = {rewind.step for rewind in rewinds}
    restarts = [s for s in run.segments if s.attempt > 0 and s.first_step not in steps]
    rewinds += [Rewind("restart", s.first_step, s.attempt) for s in restarts]
    rewinds = [_without_idle_skip(run, rewind) for rewind in _with_lineage(run, rewinds)]
    return tuple(sorted(rewinds, key=lambda rewind: rewind.attempt or 0))


def inherited_attempts(run: Run) -> int:
    """How many of the first attempts of a replay were trained by its parent; 0 for any other run."""
    return step_number((run.manifest.lineage or {}).get("inherited_attempts")) or 0


def skipped_windows(run: Run, rewinds: Sequence[Rewind]) -> tuple[Window, ...]:
    """Windows of batch indices that the run skipped, according to its journal or its rows."""
    logged = {window for rewind in rewinds for window in rewind.skip}
    series = run.series("batch_index")
    if series is None or len(series) < 2:
        return tuple(sorted(logged))
    strides = np.diff(series.value)
    jumps = np.flatnonzero(strides > 1)
    if jumps.size > MOST_SKIPS or np.median(strides) != 1:
        return tuple(sorted(logged))
    visible = {(int(series.value[i]) + 1, int(series.value[i + 1])) for i in jumps}
    inside = {w for w in visible if any(first <= w[0] and w[1] <= last for first, last in logged)}
    return tuple(sorted(logged | (visible - inside)))


def consumed_at(window: Window, runs: Sequence[Run]) -> Window:
    """The steps at which one of `runs` consumed the batches of `window`, rolled-back attempts first; else `window`."""
    for run in runs:
        for attempt in (*(s.attempt for s in run.segments if s.discarded), None):
            series = run.series("batch_index", attempt=attempt)
            if series is not None:
                steps = series.step[(series.value >= window[0]) & (series.value < window[1])]
                if steps.size:
                    return int(steps[0]), int(steps[-1]) + 1
    return window


def changed_settings(run: Run) -> tuple[ChangedSetting, ...]:
    """Settings that changed during the run, or between two of its attempts."""
    settings: list[ChangedSetting] = []
    for event in run.journal.of("config_change", "environment_change"):
        if event.event == "config_change":
            key = plain(event.keys.get("key"), 80)
            settings.append(ChangedSetting(event.step, key, event.keys.get("old"), event.keys.get("new")))
        changed = event.keys.get("changed") if event.event == "environment_change" else None
        for key, pair in cast("dict[str, Any]", changed).items() if isinstance(changed, dict) else ():
            if isinstance(pair, list) and len(cast("list[Any]", pair)) == 2:
                settings.append(ChangedSetting(event.step, plain(key, 80), *pair))
    return tuple(settings)


def rewind_line(rewind: Rewind, letter: str, letters: Mapping[str, str]) -> str:
    """One line: `b resumed from step 300 of a, skipping batches [312, 512): loss_spike_sustained`.

    `letter` is the run's own ("a", "b", or "both"); `letters` maps the ids of the compared runs to their letters.
    """
    if rewind.parent:
        name = letters.get(rewind.parent) or f"run {plain(rewind.parent, 60)}"
        line = f"{letter} resumed from step {rewind.step} of {name}"
    elif rewind.kind == "rollback":
        begin = "" if rewind.from_step is None else f"from step {rewind.from_step} "
        line = f"{letter} rolled back {begin}to step {rewind.step}"
    elif rewind.kind == "resume":
        line = f"{letter} resumed from step {rewind.step}"
    else:
        line = f"{letter} began attempt {rewind.attempt} at step {rewind.step}; no event says why"
    if rewind.skip:
        line += f", skipping batches {window_list(rewind.skip)}"
    if rewind.idle_skip:
        line += f", told to skip batches {window_list(rewind.idle_skip)}, which it does not reach"
    if rewind.missing:
        line += f", without its {_listed(rewind.missing)}"
    if rewind.changes:
        line += f", with {_listed(rewind.changes)}"
    if rewind.altered:
        line += f"; {_listed(rewind.altered)}"
    return line + (f": {plain(rewind.reason, 100)}" if rewind.reason else "")


def window_list(windows: Iterable[Window]) -> str:
    """`[312, 512), [600, 601)`."""
    return ", ".join(map(format_window, windows))


def _rollback(event: Event, step: int, attempt: int) -> Rewind:
    keys = event.keys
    skip = parse_windows(keys.get("skip"))
    return Rewind(
        "rollback", step, attempt, step_number(keys.get("from_step")), skip=skip,
        changes=_other_changes(keys.get("changes"), skip), reason=_reason(keys.get("reason")),
    )  # fmt: skip


def _resume(event: Event, step: int, attempt: int) -> Rewind:
    changed = event.keys.get("changed")
    altered = [
        f"{plain(key, 60)} {plain(pair[1], 40)} instead of {plain(pair[0], 40)}"
        for key, pair in (cast("dict[str, Any]", changed).items() if isinstance(changed, dict) else ())
        if isinstance(pair, list) and len(cast("list[Any]", pair)) == 2
    ]
    missing = tuple(plain(piece, 60) for piece in _list(event.keys.get("missing")))
    return Rewind("resume", step, attempt, missing=missing, altered=tuple(altered))


def _with_lineage(run: Run, rewinds: list[Rewind]) -> list[Rewind]:
    """`rewinds` with the one by which the run left its parent: with the parent's id and the facts of the lineage."""
    lineage, name = run.manifest.lineage or {}, parent(run)
    if name is None:
        return rewinds
    step, attempt = step_number(lineage.get("from_step")), step_number(lineage.get("attempt"))
    positions = [i for i, r in enumerate(rewinds) if r.step == step and attempt in (None, r.attempt)]
    skip = parse_windows(lineage.get("skip"))
    if positions:
        rewind = rewinds[positions[-1]]
        whole_skip = rewind.skip or skip
        rewinds[positions[-1]] = dataclasses.replace(
            rewind,
            parent=name,
            skip=whole_skip,
            changes=rewind.changes or _other_changes(lineage.get("changes"), whole_skip),
            reason=rewind.reason or _reason(lineage.get("reason")),
        )
        return rewinds
    if step is None:
        return rewinds
    changes = _other_changes(lineage.get("changes"), skip)
    return [*rewinds, Rewind("resume", step, attempt, None, name, skip, changes, _reason(lineage.get("reason")))]


def _without_idle_skip(run: Run, rewind: Rewind) -> Rewind:
    """`rewind` with those of its skip windows set apart of which the run would have consumed no batch anyway: it ended
    before them, or continued after them. Without a logged batch index, every window counts."""
    series = run.series("batch_index")
    if series is None or not rewind.skip:
        return rewind
    since = max(0, int(np.searchsorted(series.step, rewind.step)) - 1)
    index = series.value[since:][np.isfinite(series.value[since:])]
    if not index.size:
        return rewind
    before = index[0] if series.step[since] < rewind.step else -1

    def acts(window: Window) -> bool:
        first, last = max(window[0], before + 1), min(window[1], index.max() + 1)
        return last - first > np.unique(index[(index >= first) & (index < last)]).size

    idle = tuple(window for window in rewind.skip if not acts(window))
    return dataclasses.replace(rewind, skip=tuple(w for w in rewind.skip if w not in idle), idle_skip=idle)


def _other_changes(value: object, skip: tuple[Window, ...]) -> tuple[str, ...]:
    """The changes in `value` without the skipped batches, which have their own field."""
    changes = [plain(change, 80) for change in _list(value) if isinstance(change, str)]
    return tuple(change for change in changes if not (skip and change.startswith("skip")))


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _reason(value: object) -> str:
    return plain(value, 100) if isinstance(value, str) else ""


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:4]) + (f" and {len(items) - 4} more" if len(items) > 4 else "")
