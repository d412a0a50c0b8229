"""Panels, one file each: a panel measures one view of the run around an incident, and draws it.

A panel file defines `PANEL = Panel(…)`. `measure` returns observations. A panel whose columns are missing or constant
is silent, and says what it would have shown. Its reading contains everything that it draws, so that a report can be
drawn from the diagnosis alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from postmortem.case import Case, Observation
from postmortem.detectors import FEWEST_LOSS_ROWS
from postmortem.diagnosis import PanelReading, Trace
from postmortem.discovery import discover, mistake
from postmortem.panels._batch_tokens import concentrated_token as concentrated_token
from postmortem.panels._batch_tokens import rare_tokens as rare_tokens
from postmortem.panels._drawing import draw_lines
from postmortem.panels._measuring import first_nonfinite
from postmortem.panels._measuring import furthest as furthest
from postmortem.panels._measuring import old_level_text as old_level_text
from postmortem.run import Run
from postmortem.series import Series
from postmortem.text import count, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_TRACES = 6
MAX_POINTS = 400


def _never(_: Case) -> bool:
    return False


@dataclass(frozen=True)
class Panel:
    """One view of the run.

    `columns` are canonical names, or a log's own names for columns without one; a name that ends in "*" is a family
    (group, layer or rank). `observes` are the slugs of all observations that the panel may make: causes put weights on
    them. One of them, `nonfinite`, is made of a column that is not finite in the incident where `measure` does not
    speak of it; "" where `measure` always does. `would_tell` completes the sentence "It would have shown …" of a silent
    panel. `without_columns` says whether there is something to measure although no column is logged (a dtype in
    run.json).
    """

    number: int
    slug: str
    title: str
    columns: tuple[str, ...]
    measure: Callable[[Case], list[Observation]]
    would_tell: str
    observes: tuple[str, ...]
    unit: str = ""
    log_scale: bool = False
    nonfinite: str = ""
    constant_is_silent: bool = True
    without_columns: Callable[[Case], bool] = _never
    draw: Callable[[Axes, PanelReading], None] = draw_lines

    def read(self, case: Case) -> tuple[PanelReading, list[Observation]]:
        """What the panel shows of `case`, and its observations to weigh (none where it is silent).

        Raises TypeError, or BrokenPlugin, for an observation that the panel does not declare.
        """
        blank = PanelReading(self.number, self.slug, self.title, self.unit, log_scale=self.log_scale)
        logged = [name for column in self.columns for name in _expand(case.run, column)]
        reason = self._why_silent(case.run, logged)
        if reason and not self.without_columns(case):
            return replace(blank, silent=reason, would_tell=self.would_tell), []
        observations = self.measure(case)
        observations += self._nonfinite(case, logged, {o.column for o in observations})
        if not observations:
            reason = reason or "logged, but in too few rows around the incident to compare"
            return replace(blank, silent=reason, would_tell=self.would_tell, traces=_traces(case, logged)), []
        if undeclared := {o.slug for o in observations} - {*self.observes}:
            raise mistake(
                self, f"panel {self.slug}: observed {', '.join(sorted(undeclared))}, which it does not declare"
            )
        moved = any(o.moved for o in observations)
        summary = "; ".join(o.text for o in observations if o.moved == moved)
        return replace(blank, moved=moved, summary=summary, traces=_traces(case, logged)), observations

    def _nonfinite(self, case: Case, logged: list[str], reported: set[str]) -> list[Observation]:
        """That columns which `measure` did not report are not finite, as one observation of the first of them.

        Where nothing is clipped, the clip threshold is infinite: that is a setting, and no measurement.
        """
        names = [name for name in logged if name not in {*reported, "clip_threshold"}] if self.nonfinite else []
        broken = {name: step for name in names if (step := first_nonfinite(case, name)) is not None}
        if not broken:
            return []
        first = min(broken, key=lambda name: broken[name])
        others = f"; so {'is' if len(broken) == 2 else 'are'} {count(len(broken) - 1, 'more column')}"
        text = f"{plain(first, 60)} is non-finite at step {broken[first]}{others if len(broken) > 1 else ''}"
        return [Observation(self.nonfinite, text, first, broken[first])]

    def quiet(self, run: Run) -> PanelReading:
        """What the panel shows of a whole run without an incident."""
        blank = PanelReading(self.number, self.slug, self.title, self.unit, log_scale=self.log_scale)
        logged = [name for column in self.columns for name in _expand(run, column)]
        reason = self._why_silent(run, logged)
        if reason:
            return replace(blank, silent=reason, would_tell=self.would_tell)
        rows = {name: len(column) for name in logged if (column := run.series(name) or run.labels(name)) is not None}
        few = [f"{plain(name, 60)} ({count(n, 'row')})" for name, n in rows.items() if n < FEWEST_LOSS_ROWS]
        too_few = f"too few rows to judge: {_listed(few)}" if few else ""
        judged = [name for name in logged if rows.get(name, 0) >= FEWEST_LOSS_ROWS]
        if not judged:
            return replace(blank, silent=too_few or "no value is logged", would_tell=self.would_tell)
        drawn = [(n, s) for n in logged[:MAX_TRACES] if "/" not in n and (s := run.series(n)) is not None]
        traces = tuple(Trace(n, *_thin(s, keep=()), run.origin(n)) for n, s in drawn)
        summary = "; ".join(filter(None, (f"nothing unusual in {_listed(judged)}", too_few)))
        return replace(blank, summary=summary, traces=traces)

    def _why_silent(self, run: Run, logged: list[str]) -> str:
        """The reason why there is nothing to measure in the `logged` columns; "" where there is something."""
        if not logged:
            return "not logged: " + ", ".join(self.columns)
        if not self.constant_is_silent:
            return ""
        for name in logged:
            series = run.series(name)
            if series is None or len(series) < 2 or np.ptp(series.value) != 0:  # NaN != 0 is true as well
                return ""
        return "constant in every row: " + ", ".join(logged[:MAX_TRACES])


@cache
def panels() -> tuple[Panel, ...]:
    """All panels, in order of their numbers."""
    unique = ("slug", "number", "observes")
    discovered = discover(sys.modules[__name__], "PANEL", Panel, group="postmortem.panels", unique=unique)
    return tuple(sorted(discovered, key=lambda panel: panel.number))


def draw_panel(ax: Axes, reading: PanelReading) -> None:
    """Draw `reading` on `ax`, as its panel draws it; as lines where the panel is unknown to this version."""
    draw = next((panel.draw for panel in panels() if panel.slug == reading.slug), draw_lines)
    draw(ax, reading)


def _expand(run: Run, column: str) -> tuple[str, ...]:
    if column.endswith("*"):
        return tuple(name for name in run.columns if name.startswith(column[:-1]))
    return (column,) if column in run.columns or column in run.other_columns else ()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_TRACES} more" if len(names) > MAX_TRACES else ""
    return ", ".join(names[:MAX_TRACES]) + more


def _traces(case: Case, names: list[str]) -> tuple[Trace, ...]:
    """The lines to draw around the incident: single columns first, then the members of a family that moved most."""
    single = [name for name in names if "/" not in name]
    family = [name for name in names if "/" in name]
    if len(single) + len(family) > MAX_TRACES:
        departures = {name: case.departure(name) for name in family}
        family.sort(key=lambda name: -abs(d.z) if (d := departures[name]) else 0.0)
    traces: list[Trace] = []
    for name in [*single, *family][:MAX_TRACES]:
        series = case.series(name)
        if series is not None and (shown := series.window(*drawn_steps(case))):
            step, value = _thin(shown, keep=(case.incident.onset_step, case.incident.peak_step))
            traces.append(Trace(name, step, value, case.run.origin(name)))
    return tuple(traces)


def drawn_steps(case: Case) -> tuple[int, int]:
    """[first, last) steps that pictures show: the incident, and enough rows around it to see what is normal."""
    incident = case.incident
    end = max(incident.recovery_step or incident.peak_step, incident.peak_step)
    rows = min(max(40, 2 * (end - incident.onset_step) // case.row_step), 400)
    end = min(end, incident.onset_step + 2000 * case.row_step)
    return incident.onset_step - rows * case.row_step, end + rows * case.row_step + 1


def _thin(series: Series, keep: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Steps and values of about MAX_POINTS rows at most, always with the steps in `keep`."""
    stride = -(-len(series) // MAX_POINTS)
    drawn = np.zeros(len(series), bool)
    drawn[::stride] = True
    drawn[np.isin(series.step, keep)] = True
    return tuple(series.step[drawn].tolist()), tuple(series.value[drawn].tolist())
