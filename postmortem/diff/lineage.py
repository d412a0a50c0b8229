"""Where a run went back or went on, as its journal, its run.json and its rows tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from postmortem.change import Window, shown
from postmortem.diff.model import ChangedSetting, Rewind
from postmortem.diff.pair import parent
from postmortem.run import Event, Run
from postmortem.run.journal import step_number
from postmortem.text import plain

MOST_SKIPS = 20  # jumps of the batch index that are told; more are the loader's own stride


def rewinds(run: Run) -> tuple[Rewind, ...]:
    """Rollbacks and resumes in the order of the journal; attempts that it does not tell of; the lineage filled in."""
    found: list[Rewind] = []
    attempt = 0
    for event in run.journal:
        counted = step_number(event.keys.get("attempt"))
        if event.event in ("run_start", "reopen", "rollback") and counted is not None:
            attempt = counted
        if event.event == "rollback" and (step := step_number(event.keys.get("to_step"))) is not None:
            found.append(_rollback(event, step, attempt))
        elif event.event == "resume" and (step := step_number(event.keys.get("from_step"))) is not None:
            resumed = _resume(event, step, attempt)
            last = found[-1] if found else None
            if last is not None and last.kind == "rollback" and (last.step, last.attempt) == (step, attempt):
                found[-1] = dataclasses.replace(last, missing=resumed.missing, altered=resumed.altered)
            else:
                found.append(resumed)
    known = {rewind.step for rewind in found}
    restarts = [s for s in run.segments if s.attempt > 0 and s.first_step not in known]
    found += [Rewind("restart", s.first_step, s.attempt) for s in restarts]
    return tuple(sorted(_with_lineage(run, found), key=lambda one: one.attempt or 0))


def skipped(run: Run, told: Sequence[Rewind]) -> tuple[Window, ...]:
    """Windows of batch indices that the run went past, as the journal says or as its rows show."""
    said = {window for rewind in told for window in rewind.skip}
    series = run.series("batch_index")
    if series is None or len(series) < 2:
        return tuple(sorted(said))
    ahead = np.diff(series.value)
    jumps = np.flatnonzero(ahead > 1)
    if jumps.size > MOST_SKIPS or np.median(ahead) != 1:
        return tuple(sorted(said))
    shown = {(int(series.value[i]) + 1, int(series.value[i + 1])) for i in jumps}
    inside = {w for w in shown if any(first <= w[0] and w[1] <= last for first, last in said)}
    return tuple(sorted(said | (shown - inside)))


def consumed_at(window: Window, runs: Sequence[Run]) -> Window:
    """The steps at which one of `runs` consumed the batches of `window`, discarded attempts first, else the window."""
    for run in runs:
        for attempt in (*(s.attempt for s in run.segments if s.discarded), None):
            series = run.series("batch_index", attempt=attempt)
            if series is not None:
                steps = series.step[(series.value >= window[0]) & (series.value < window[1])]
                if steps.size:
                    return int(steps[0]), int(steps[-1]) + 1
    return window


def moved(run: Run) -> tuple[ChangedSetting, ...]:
    """Settings that changed while the run went on, or between two of its attempts."""
    found: list[ChangedSetting] = []
    for event in run.journal:
        if event.event == "config_change":
            key = plain(event.keys.get("key"), 80)
            found.append(ChangedSetting(event.step, key, event.keys.get("old"), event.keys.get("new")))
        changed = event.keys.get("changed") if event.event == "environment_change" else None
        for key, pair in cast("dict[str, Any]", changed).items() if isinstance(changed, dict) else ():
            if isinstance(pair, list) and len(cast("list[Any]", pair)) == 2:
                found.append(ChangedSetting(event.step, plain(key, 80), *pair))
    return tuple(found)


def windows(value: object) -> tuple[Window, ...]:
    """`[[312, 512]]` or `[312, 512]` as windows [first, last); what is neither is left out."""
    if not isinstance(value, (list, tuple)):
        return ()
    items = cast("Sequence[object]", value)
    pair = [step_number(item) for item in items]
    if len(pair) == 2 and pair[0] is not None and pair[1] is not None:
        return ((pair[0], pair[1]),) if pair[0] < pair[1] else ()
    return tuple(window for item in items if isinstance(item, (list, tuple)) for window in windows(cast(object, item)))


def told(rewind: Rewind, who: str, others: Mapping[str, str]) -> str:
    """One line: `b resumed from step 300 of a, skipping batches [312, 512): loss_spike_sustained`.

    `others` maps ids of runs to the letters they go by here.
    """
    if rewind.parent:
        name = others.get(rewind.parent) or f"run {plain(rewind.parent, 60)}"
        line = f"{who} resumed from step {rewind.step} of {name}"
    elif rewind.kind == "rollback":
        begin = "" if rewind.from_step is None else f"from step {rewind.from_step} "
        line = f"{who} rolled back {begin}to step {rewind.step}"
    elif rewind.kind == "resume":
        line = f"{who} resumed from step {rewind.step}"
    else:
        line = f"{who} began attempt {rewind.attempt} at step {rewind.step}; no event says why"
    if rewind.skip:
        line += f", skipping batches {named(rewind.skip)}"
    if rewind.missing:
        line += f", without its {_listed(rewind.missing)}"
    if rewind.changes:
        line += f", with {_listed(rewind.changes)}"
    if rewind.altered:
        line += f"; {_listed(rewind.altered)}"
    return line + (f": {plain(rewind.reason, 100)}" if rewind.reason else "")


def named(these: Iterable[Window]) -> str:
    """`[312, 512), [600, 601)`."""
    return ", ".join(map(shown, these))


def _rollback(event: Event, step: int, attempt: int) -> Rewind:
    keys = event.keys
    skip = windows(keys.get("skip"))
    return Rewind(
        "rollback", step, attempt, step_number(keys.get("from_step")), skip=skip,
        changes=_changes(keys.get("changes"), skip), reason=_words(keys.get("reason")),
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


def _with_lineage(run: Run, found: list[Rewind]) -> list[Rewind]:
    """The rewind by which the run left its parent carries the parent's name, and what the lineage says of it."""
    lineage, name = run.manifest.lineage or {}, parent(run)
    if name is None:
        return found
    step, attempt = step_number(lineage.get("from_step")), step_number(lineage.get("attempt"))
    at = [i for i, one in enumerate(found) if one.step == step and attempt in (None, one.attempt)]
    skip = windows(lineage.get("skip"))
    if at:
        one = found[at[-1]]
        whole_skip = one.skip or skip
        found[at[-1]] = dataclasses.replace(
            one,
            parent=name,
            skip=whole_skip,
            changes=one.changes or _changes(lineage.get("changes"), whole_skip),
            reason=one.reason or _words(lineage.get("reason")),
        )
        return found
    if step is None:
        return found
    changes = _changes(lineage.get("changes"), skip)
    told_of = Rewind("resume", step, attempt, None, name, skip, changes, _words(lineage.get("reason")))
    return [*found, told_of]


def _changes(value: object, skip: tuple[Window, ...]) -> tuple[str, ...]:
    """What was changed besides the batches that were skipped, which stand on their own."""
    said = [plain(change, 80) for change in _list(value) if isinstance(change, str)]
    return tuple(change for change in said if not (skip and change.startswith("skip")))


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _words(value: object) -> str:
    return plain(value, 100) if isinstance(value, str) else ""


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:4]) + (f" and {len(items) - 4} more" if len(items) > 4 else "")
