"""Writes a diff in sentences, the same for the terminal and for the Markdown page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from postmortem.diff.divergence import KINDS
from postmortem.diff.level import nats, signed
from postmortem.diff.lineage import window_list
from postmortem.diff.model import DiffIncident, Discarded, Gap, LostWork, Recovery, RunsDiff, RunSummary, Setting
from postmortem.diff.relation_text import other_lines
from postmortem.text import count, number, plain

HEADS = ("b", "verdict", "divergence", "incidents", "area", "end", "lost")
FEW = 4  # items of a list that are shown; --all shows them all
_NAME = 40  # characters of a run's name in the table, where there is room
_GROUPS = ("config", "code", "packages", "environment", "run")
_OUTCOMES = {"lingering": "lingers", "diverged": "does not recover", "unresolved": "unresolved: its rows end too soon"}


@dataclass(frozen=True)
class Section:
    """One heading and its sentences."""

    title: str
    lines: tuple[str, ...]


def sections(d: RunsDiff, everything: bool = False) -> tuple[Section, ...]:
    """All sections in reading order; `everything` adds what is unchanged."""
    max_items = 10**9 if everything else FEW
    moved = everything or (d.alignment is not None and d.alignment.moved)
    gaps = [g for g in d.gaps if (g.by == "step" or moved) and (everything or g.area or g.nonfinite)]
    all_sections = (
        Section("Changed", _changed(d, max_items)),
        Section("Incidents", _incidents(d, max_items)),
        Section("Divergence", _divergence(d, everything)),
        Section("Batches", _batches(d, max_items)),
        Section("Rolled back", _per_run(d, lambda run: map(_discarded, run.discarded), max_items)),
        Section("Lost work", _per_run(d, lambda run: _lost_work(run.lost), max_items)),
        Section("Recovery", _per_run(d, lambda run: map(_recovery, run.recoveries), max_items)),
        Section("Gap", tuple(_gap(gap) for gap in gaps if gap.column == "loss")),
        Section("At the end", tuple(_final_gap(gap) for gap in gaps)),
        Section("Constant", other_lines(d.relations, d.a, d.b)),
        Section("Columns", _columns(d, everything)),
        Section("Not known", d.cannot_tell),
    )
    return tuple(s if s.lines else Section(s.title, ("nothing",)) for s in all_sections if s.lines or everything)


def run_line(run: RunSummary) -> str:
    """`2,000 rows, steps 0–1999, seed 42, 2 attempts`."""
    parts = [count(run.rows, "row")]
    if run.first_step is not None:
        parts.append(f"steps {run.first_step}–{run.last_step}")
    if run.seed is not None:
        parts.append(f"seed {run.seed}")
    if run.attempts > 1:
        parts.append(f"{run.attempts} attempts")
    return ", ".join(parts)


def row(d: RunsDiff) -> tuple[str, ...]:
    """A row under HEADS: first divergence, incidents of only b, area in nats·steps, gap at the end in nats, wasted
    steps.
    """
    gap = d.gap()
    return (
        plain(d.b.id, _NAME),
        d.verdict,
        "–" if d.divergence is None else f"{d.divergence.step} {d.divergence.kind.replace('_', ' ')}",
        str(sum(not incident.shared for incident in d.b.incidents)),
        "–" if gap is None else number(gap.area),
        "–" if gap is None else signed(gap.final),
        f"{d.b.lost.steps:,}",
    )


def facts(d: RunsDiff) -> tuple[str, ...]:
    """The reason and the first facts, for a line after the name of b: without a leading "b", and without those of a."""
    return d.reason, *(line.removeprefix("b ") for line in d.top_lines if not line.startswith("a "))


def _changed(d: RunsDiff, max_items: int) -> tuple[str, ...]:
    lines: list[str] = []
    for group in _GROUPS:
        settings = [s for s in d.settings if s.group == group]
        if settings:
            name = "run.json" if group == "run" else group
            lines.append(f"{name}: {_listed(map(_setting, settings), max_items, '; ')}")
    for letter, run in (("a", d.a), ("b", d.b)):
        if run.moved:
            changes = (f"{m.key} {_value(m.old)} → {_value(m.new)}{_at_step(m.step)}" for m in run.moved)
            lines.append(f"within {letter}: {_listed(changes, max_items, '; ')}")
    return tuple(lines)


def _incidents(d: RunsDiff, max_items: int) -> tuple[str, ...]:
    groups = [("both", [i for i in d.a.incidents if i.shared])]
    groups += [(letter, [i for i in run.incidents if not i.shared]) for letter, run in (("a", d.a), ("b", d.b))]
    lines = [
        f"{name}: {_listed(map(_incident, _worst_first(incidents)), max_items, '; ')}"
        for name, incidents in groups
        if incidents
    ]
    return tuple(lines) or ("none in either run",)


def _divergence(d: RunsDiff, everything: bool) -> tuple[str, ...]:
    if d.divergence is None:
        return (f"none: no common column differs{_why_not_identical(d)}",) if d.columns else ("no common column",)
    lines = [f"step {d.divergence.step}, {KINDS[d.divergence.kind]}: {d.divergence.text}"]
    if everything:
        lines.append(f"columns that differ at this step: {', '.join(plain(c, 60) for c in d.divergence.columns)}")
    return tuple(lines)


def _why_not_identical(d: RunsDiff) -> str:
    """What differs of two runs although no value that both logged does; "" where nothing does."""
    if d.verdict == "identical":
        return ""
    uneven = [plain(c.name, 60) for c in d.columns if c.only_a or c.only_b]
    if not uneven:
        return " in the rows that both have, but one has rows that the other lacks"
    return f" where both logged it, but they did not log {_listed(uneven, FEW)} at the same steps"


def _batches(d: RunsDiff, max_items: int) -> tuple[str, ...]:
    alignment = d.alignment
    if alignment is None:
        return ()
    if not alignment.matched:
        return ("the runs have no batch in common",)
    lines = [f"{alignment.matched - alignment.moved:,} at the same step in both"]
    if alignment.moved:
        moved = [s for s in alignment.stretches if s.a_first != s.b_first]
        steps = (f"{s.a_first}–{s.a_last} in a are {s.b_first}–{s.b_last} in b" for s in moved)
        lines.append(f"{alignment.moved:,} at different steps: {_listed(steps, max_items, '; ')}")
    for letter, batches, windows in (
        ("a", alignment.a_alone, alignment.only_a),
        ("b", alignment.b_alone, alignment.only_b),
    ):
        if batches:
            rest = f" and {len(windows) - max_items} more" if len(windows) > max_items else ""
            lines.append(f"{batches:,} only in {letter}: {window_list(windows[:max_items])}{rest}")
    if alignment.first_other and alignment.first_other[0] != alignment.first_other[1]:
        a, b = alignment.first_other
        lines.append(f"the first common batch with a different loss: step {a} in a, step {b} in b")
    return tuple(lines)


def _discarded(stretch: Discarded) -> str:
    peak = "" if stretch.peak is None else f", loss up to {number(stretch.peak)} at step {stretch.peak_step}"
    steps = f"steps {stretch.first_step}–{stretch.last_step}"
    return f"{steps} of attempt {stretch.attempt} ({count(stretch.rows, 'row')}){peak}"


def _lost_work(lost: LostWork) -> list[str]:
    parts: list[str] = []
    if lost.steps:
        tokens = "" if lost.tokens is None else f", {count(lost.tokens, 'token')}"
        hours = "unknown" if lost.device_hours is None else _hours(lost.device_hours)
        parts.append(f"{count(lost.steps, 'step')} wasted{tokens}; device-hours: {hours}")
    if lost.skipped_batches:
        tokens = "" if lost.skipped_tokens is None else f"{count(lost.skipped_tokens, 'token')}, "
        parts.append(f"{count(lost.skipped_batches, 'batch')} skipped ({tokens}no training time)")
    return parts


def _recovery(recovery: Recovery) -> str:
    event = f"the {recovery.what} at step {recovery.from_step}"
    if recovery.back_step is None:
        return f"{event}: never returned to the level of the other run"
    steps = recovery.back_step - recovery.from_step
    if not steps:
        return f"{event}: at the level of the other run at once"
    time = "" if recovery.hours is None else f", {_duration(recovery.hours * 3600)}"
    return f"{event}: back at the level of the other run after {count(steps, 'step')}{time}"


def _gap(gap: Gap) -> str:
    a, b = gap.largest_at
    steps = f"step {a}" if gap.by == "step" else f"step {a} in a, step {b} in b"
    levels = f"{count(gap.levels, 'level')} (medians of {count(gap.noise.rows, 'row')})"
    outside = f"{gap.outside} of {levels} outside the noise"
    broken = f"; {count(gap.nonfinite, 'row')} not finite" if gap.nonfinite else ""
    unit = "nats·steps" if gap.by == "step" else "nats·batches"
    largest = f"largest gap {signed(gap.largest)} at {steps}"
    return f"by {gap.by}: area {number(gap.area)} {unit}, {largest}; {outside}{broken}"


def _final_gap(gap: Gap) -> str:
    name = f"by {gap.by}" if gap.column == "loss" else gap.column
    rows = "row" if gap.final_rows == 1 else f"{gap.final_rows:,} rows"
    return f"{name}: b − a = {signed(gap.final)} nats over the last {rows}; noise ±{nats(gap.noise.end)}"


def _columns(d: RunsDiff, everything: bool) -> tuple[str, ...]:
    lines: list[str] = []
    if everything:
        for c in d.columns:
            text = "equal" if c.equal else f"{c.differing:,} of {c.rows:,} rows differ, first at {c.first_step}"
            if c.only_a or c.only_b:
                text += f"; logged only by a {c.only_a:,} times, only by b {c.only_b:,} times"
            lines.append(f"{plain(c.name, 60)}: {text}")
    elif d.columns:
        equal = sum(c.equal for c in d.columns)
        lines.append(f"{equal} of {count(len(d.columns), 'common column')} have the same bits")
    for letter, names in (("a", d.columns_only_a), ("b", d.columns_only_b)):
        if names:
            lines.append(f"only in {letter}: {_listed((plain(n, 60) for n in names), 10**9 if everything else 8)}")
    return tuple(lines)


def _per_run(d: RunsDiff, texts: Callable[[RunSummary], Iterable[str]], max_items: int) -> tuple[str, ...]:
    """One line for each of the two runs that `texts` has something to say about."""
    pairs = [(letter, list(texts(run))) for letter, run in (("a", d.a), ("b", d.b))]
    return tuple(f"{letter}: {_listed(items, max_items, '; ')}" for letter, items in pairs if items)


def _incident(incident: DiffIncident) -> str:
    name, recovery = plain(incident.title, 60), incident.recovery_step
    end = _OUTCOMES.get(incident.outcome, "")
    if recovery is not None:
        end = (
            f"settles at another level at step {recovery}"
            if incident.outcome == "lingering"
            else f"over at step {recovery}"
        )
    attempt = f" in rolled-back attempt {incident.attempt}" if incident.discarded else ""
    return f"{name} at step {incident.onset_step}{attempt}, peak {incident.peak_step}, {end}"


def _worst_first(incidents: Sequence[DiffIncident]) -> list[DiffIncident]:
    return sorted(incidents, key=lambda incident: -incident.severity)


def _setting(setting: Setting) -> str:
    return f"{plain(setting.key, 80)} {_value(setting.a)} → {_value(setting.b)}"


def _value(value: Any) -> str:
    return "–" if value is None else plain(json.dumps(value, ensure_ascii=False, default=str), 60)


def _at_step(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.005 else "less than 0.01"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{number(round(seconds / size, 1))} {unit}"
    return f"{seconds:.2g} s"


def _listed(items: Iterable[str], max_items: int, separator: str = ", ") -> str:
    texts = list(items)
    rest = f"{separator}and {len(texts) - max_items} more" if len(texts) > max_items else ""
    return separator.join(texts[:max_items]) + rest
