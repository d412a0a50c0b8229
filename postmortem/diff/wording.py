"""What the records say, in sentences: the same for the terminal and for the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from postmortem.diff.divergence import KINDS
from postmortem.diff.level import nats, signed
from postmortem.diff.lineage import named
from postmortem.diff.model import DiffIncident, Discarded, Gap, LostWork, Recovery, RunsDiff, RunSummary, Setting
from postmortem.text import number, plain

HEADS = ("b", "verdict", "part at", "incidents", "area", "end", "lost")
FEW = 4  # items of a list that are told; --all tells them all
_NAME = 40  # characters of a run's name in the table, where there is room
_GROUPS = ("config", "code", "packages", "environment", "run")
_OUTCOMES = {"lingering": "lingers", "diverged": "does not recover", "unresolved": "not resolved when its rows end"}


@dataclass(frozen=True)
class Section:
    """One heading and its sentences."""

    title: str
    lines: tuple[str, ...]


def sections(d: RunsDiff, everything: bool = False) -> tuple[Section, ...]:
    """All that there is to say, in the order in which it is read; `everything` says also what is unchanged."""
    most = 10**9 if everything else FEW
    moved = everything or (d.alignment is not None and d.alignment.moved)
    gaps = [g for g in d.gaps if (g.by == "step" or moved) and (everything or g.area or g.nonfinite)]
    made = (
        Section("Changed", _changed(d, most)),
        Section("Incidents", _incidents(d, most)),
        Section("They part", _parting(d, everything)),
        Section("Batches", _batches(d, most)),
        Section("Discarded", _each(d, lambda side: [_stretch(one) for one in side.discarded], most)),
        Section("LostWork", _each(d, lambda side: _lost(side.lost), most)),
        Section("Back after", _each(d, lambda side: [_back(one) for one in side.recoveries], most)),
        Section("Between", tuple(_between(gap) for gap in gaps if gap.column == "loss")),
        Section("The end", tuple(_end(gap) for gap in gaps)),
        Section("Columns", _columns(d, everything)),
        Section("Not told", d.cannot_tell),
    )
    return tuple(s if s.lines else Section(s.title, ("nothing",)) for s in made if s.lines or everything)


def run_line(side: RunSummary) -> str:
    """`2,000 rows, steps 0–1999, seed 42, 2 attempts`."""
    parts = [_count(side.rows, "row")]
    if side.first_step is not None:
        parts.append(f"steps {side.first_step}–{side.last_step}")
    if side.seed is not None:
        parts.append(f"seed {side.seed}")
    if side.attempts > 1:
        parts.append(f"{side.attempts} attempts")
    return ", ".join(parts)


def parting(d: RunsDiff) -> str:
    """Step and kind of the first divergence."""
    return "nowhere" if d.divergence is None else f"step {d.divergence.step}, {KINDS[d.divergence.kind]}"


def row(d: RunsDiff) -> tuple[str, ...]:
    """A row under HEADS: first divergence, incidents of b alone, area in nats·steps, gap at the end in nats, steps done
    in vain.
    """
    gap = d.gap()
    return (
        plain(d.b.id, _NAME),
        d.verdict,
        "–" if d.divergence is None else f"{d.divergence.step} {d.divergence.kind.replace('_', ' ')}",
        str(sum(not one.shared for one in d.b.incidents)),
        "–" if gap is None else number(gap.area),
        "–" if gap is None else signed(gap.final),
        f"{d.b.lost.steps:,}",
    )


def facts(d: RunsDiff) -> tuple[str, ...]:
    """The reason and the first facts, to stand beside the name of b: none begins with that letter, and none is a's."""
    return d.reason, *(line.removeprefix("b ") for line in d.top_lines if not line.startswith("a "))


def _changed(d: RunsDiff, most: int) -> tuple[str, ...]:
    lines: list[str] = []
    for group in _GROUPS:
        here = [s for s in d.settings if s.group == group]
        if here:
            name = "run.json" if group == "run" else group
            lines.append(f"{name}: {_listed((_setting(s) for s in here), most, '; ')}")
    for letter, side in (("a", d.a), ("b", d.b)):
        if side.moved:
            told = (f"{m.key} {_value(m.old)} → {_value(m.new)}{_at(m.step)}" for m in side.moved)
            lines.append(f"within {letter}: {_listed(told, most, '; ')}")
    return tuple(lines)


def _incidents(d: RunsDiff, most: int) -> tuple[str, ...]:
    rows = [("both", [i for i in d.a.incidents if i.shared])]
    rows += [(letter, [i for i in side.incidents if not i.shared]) for letter, side in (("a", d.a), ("b", d.b))]
    told = [f"{who}: {_listed(map(_incident, worst), most, '; ')}" for who, found in rows if (worst := _worst(found))]
    return tuple(told) or ("none in either",)


def _parting(d: RunsDiff, everything: bool) -> tuple[str, ...]:
    if d.divergence is None:
        return ("nowhere: no common column differs",) if d.columns else ("no common column",)
    lines = [f"{parting(d)}: {d.divergence.text}"]
    if everything:
        lines.append(f"columns that differ there: {', '.join(plain(c, 60) for c in d.divergence.columns)}")
    return tuple(lines)


def _batches(d: RunsDiff, most: int) -> tuple[str, ...]:
    found = d.alignment
    if found is None:
        return ()
    if not found.matched:
        return ("the runs have no batch in common",)
    lines = [f"{found.matched - found.moved:,} at the same step in both"]
    if found.moved:
        apart = [s for s in found.stretches if s.a_first != s.b_first]
        told = (f"{s.a_first}–{s.a_last} of a are {s.b_first}–{s.b_last} of b" for s in apart)
        lines.append(f"{found.moved:,} at other steps: {_listed(told, most, '; ')}")
    for letter, count, windows in (("a", found.a_alone, found.only_a), ("b", found.b_alone, found.only_b)):
        if count:
            more = f" and {len(windows) - most} more" if len(windows) > most else ""
            lines.append(f"{count:,} in {letter} alone: {named(windows[:most])}{more}")
    if found.first_other and found.first_other[0] != found.first_other[1]:
        a, b = found.first_other
        lines.append(f"the first that both consumed with another loss: at step {a} of a, {b} of b")
    return tuple(lines)


def _stretch(one: Discarded) -> str:
    peak = "" if one.peak is None else f", loss up to {number(one.peak)} at step {one.peak_step}"
    return f"steps {one.first_step}–{one.last_step} of attempt {one.attempt} ({one.rows:,} rows){peak}"


def _lost(lost: LostWork) -> list[str]:
    parts: list[str] = []
    if lost.steps:
        tokens = "" if lost.tokens is None else f", {lost.tokens:,} tokens"
        hours = "not known" if lost.device_hours is None else _hours(lost.device_hours)
        parts.append(f"{_count(lost.steps, 'step')} done in vain{tokens}; device-hours: {hours}")
    if lost.skipped_batches:
        tokens = "" if lost.skipped_tokens is None else f" ({lost.skipped_tokens:,} tokens)"
        parts.append(f"{_count(lost.skipped_batches, 'batch', 'es')} skipped{tokens}, which took no time")
    return parts


def _back(one: Recovery) -> str:
    begun = f"the {one.what} at step {one.from_step}"
    if one.back_step is None:
        return f"{begun}: never back at the other's level"
    steps = one.back_step - one.from_step
    if not steps:
        return f"{begun}: at once"
    time = "" if one.hours is None else f", {_duration(one.hours * 3600)}"
    return f"{begun}: {_count(steps, 'step')}{time}"


def _between(gap: Gap) -> str:
    a, b = gap.largest_at
    where = f"step {a}" if gap.by == "step" else f"step {a} of a, {b} of b"
    out = f"{gap.outside} of {gap.levels} levels outside the noise"
    broken = f"; {gap.nonfinite:,} rows not finite" if gap.nonfinite else ""
    unit = "nats·steps" if gap.by == "step" else "nats·batches"
    return f"by {gap.by}: area {number(gap.area)} {unit}, largest gap {signed(gap.largest)} at {where}; {out}{broken}"


def _end(gap: Gap) -> str:
    what = f"by {gap.by}" if gap.column == "loss" else gap.column
    return f"{what}: b − a = {signed(gap.final)} nats over the last {gap.final_rows} rows; noise ±{nats(gap.noise.end)}"


def _columns(d: RunsDiff, everything: bool) -> tuple[str, ...]:
    lines: list[str] = []
    other = [c for c in d.columns if not c.equal]
    if everything:
        for c in d.columns:
            how = "equal" if c.equal else f"{c.differing:,} of {c.rows:,} rows differ, first at {c.first_step}"
            if c.only_a or c.only_b:
                how += f"; logged alone by a {c.only_a:,}, by b {c.only_b:,} times"
            lines.append(f"{plain(c.name, 60)}: {how}")
    elif d.columns:
        lines.append(f"{len(d.columns) - len(other)} of {len(d.columns)} common ones hold the same bits")
    for letter, names in (("a", d.columns_only_a), ("b", d.columns_only_b)):
        if names:
            lines.append(f"in {letter} alone: {_listed((plain(n, 60) for n in names), 10**9 if everything else 8)}")
    return tuple(lines)


def _each(d: RunsDiff, tell: Any, most: int) -> tuple[str, ...]:
    told = [(letter, list[str](tell(side))) for letter, side in (("a", d.a), ("b", d.b))]
    return tuple(f"{letter}: {_listed(lines, most, '; ')}" for letter, lines in told if lines)


def _incident(found: DiffIncident) -> str:
    name = plain(found.title, 60)
    end = f"back at {found.recovery_step}" if found.recovery_step is not None else _OUTCOMES.get(found.outcome, "")
    where = f" in the discarded attempt {found.attempt}" if found.discarded else ""
    return f"{name} at {found.onset_step}{where}, peak {found.peak_step}, {end}"


def _worst(found: Sequence[DiffIncident]) -> list[DiffIncident]:
    return sorted(found, key=lambda one: -one.severity)


def _setting(setting: Setting) -> str:
    return f"{plain(setting.key, 80)} {_value(setting.a)} → {_value(setting.b)}"


def _value(value: Any) -> str:
    return "–" if value is None else plain(json.dumps(value, ensure_ascii=False, default=str), 60)


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.005 else "less than 0.01"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{number(round(seconds / size, 1))} {unit}"
    return f"{seconds:.2g} s"


def _count(number_of: int, what: str, plural: str = "s") -> str:
    return f"{number_of:,} {what}{plural if number_of != 1 else ''}"


def _listed(items: Iterable[str], most: int, between: str = ", ") -> str:
    shown = list(items)
    more = f"{between}and {len(shown) - most} more" if len(shown) > most else ""
    return between.join(shown[:most]) + more
