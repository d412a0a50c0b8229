"""Draws the panels around an incident: one picture of all panels that moved, and one picture of each.

A panel draws its own lines (`draw`); this module adds what all pictures share: style, title, legend, and the marks for
onset, peak and recovery.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from postmortem.atomic import write_new
from postmortem.diagnosis import Incident, PanelReading
from postmortem.report import canvas, wording
from postmortem.report.canvas import DPI, INK, ONSET, RECOVERY
from postmortem.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DrawPanel = Callable[["Axes", PanelReading], None]

OVERVIEW = "panels/overview.png"
ROW = 1.6  # inches per panel: the axes take AXES of them, below a title and above the step labels
AXES = 1.0
BELOW = 0.3
LABEL_SHARE = 0.12  # of the width of a picture, which the label of a line takes at most
LEGEND_CHARACTERS = 70  # in one line beside the title; where there are more, members of a family lose its name
LEFT, RIGHT = 0.075, 0.985  # share of the width
MOST_DRAWN = 6  # panels drawn: the loss and the first panels that moved; nobody reads a report with more pictures


def draw_incident(incident: Incident, out: Path, draw: DrawPanel) -> Incident:
    """Draw the loss and the panels that moved into `out`/panels; the incident with the paths of the pictures."""
    drawn = _drawable(incident.panels)
    paths = _pictures(drawn, incident, out, draw)
    panels = tuple(replace(panel, image=paths.get(panel.number, "")) for panel in incident.panels)
    return replace(incident, panels=panels, overview=OVERVIEW if len(drawn) > 1 else "")


def draw_quiet(panels: Sequence[PanelReading], out: Path, draw: DrawPanel) -> tuple[PanelReading, ...]:
    """Draw the loss alone, for a run without an incident; the panels with the path of the picture."""
    paths = _pictures([p for p in panels if p.slug == "loss" and p.traces], None, out, draw)
    return tuple(replace(panel, image=paths.get(panel.number, "")) for panel in panels)


def _drawable(panels: Sequence[PanelReading]) -> list[PanelReading]:
    readable = [p for p in panels if p.traces and not p.silent]
    loss = [p for p in readable if p.slug == "loss"]
    return [*loss, *(p for p in readable if p.moved and p.slug != "loss")][:MOST_DRAWN]


def _pictures(panels: Sequence[PanelReading], incident: Incident | None, out: Path, draw: DrawPanel) -> dict[int, str]:
    """Draw all panels once, one above the other, and cut each panel's own picture out of the whole.

    The result maps a panel's number to the path of its picture, relative to `out`.
    """
    if not panels:
        return {}
    height, span = ROW * len(panels), _span(panels)

    def paint(figure: Figure) -> None:
        for row, panel in enumerate(panels):
            bottom = height - ROW * (row + 1) + BELOW
            axes = figure.add_axes((LEFT, bottom / height, RIGHT - LEFT, AXES / height))
            _draw_on(axes, panel, draw)
            axes.set_xlim(*span)
            if incident is not None:
                _mark_steps(axes, incident)

    picture = canvas.draw(height, paint)
    if len(panels) > 1:
        write_new(out / OVERVIEW, canvas.to_png(picture))
    paths: dict[int, str] = {}
    for row, panel in enumerate(panels):
        paths[panel.number] = f"panels/{_stem(panel)}.png"
        top, bottom = (round(edge * ROW * DPI) for edge in (row, row + 1))
        cut = picture.crop((0, top, picture.width, bottom))
        write_new(out / paths[panel.number], canvas.to_png(cut))
    return paths


def _draw_on(axes: Axes, panel: PanelReading, draw: DrawPanel) -> None:
    note = canvas.clipped_note(*(trace.value for trace in panel.traces))
    drawn = (replace(trace, value=tuple(canvas.drawable(trace.value).tolist())) for trace in panel.traces)
    draw(axes, replace(panel, traces=tuple(drawn)))
    axes.set(xlabel="", ylabel="")  # the unit is in the title, and every panel is over steps
    unit = f"  ({plain(panel.unit, 40)})" if panel.unit else ""
    canvas.style_axes(axes, f"{panel.number} · {plain(panel.title, 60)}{unit}{note}", _tick_label)
    names = [plain(label, 40) for label in axes.get_legend_handles_labels()[1]]
    if len(names) > 1:
        if sum(map(len, names)) > LEGEND_CHARACTERS:
            names = [name.rpartition("/")[2] for name in names]
        canvas.add_legend(axes, names, columns=len(names), bottom=0.98)


def _tick_label(value: float, _: int | None = None) -> str:
    """Plain digits: superscripts would start matplotlib's mathematics parser, which takes a tenth of a second."""
    return (
        f"{value:.6g}"
        if value == 0 or 1e-3 <= abs(value) < 1e7
        else f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    )


def _mark_steps(axes: Axes, incident: Incident) -> None:
    """Draw a labeled line at the onset (a band where it is an interval), and light lines at peak and recovery."""
    if incident.onset_interval:
        axes.axvspan(*incident.onset_interval, color=ONSET, alpha=0.12, linewidth=0)
    axes.axvline(incident.onset_step, color=ONSET, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1.5)
    _label(axes, incident.onset_step, f"onset {wording.onset(incident)}", ONSET, "right")
    if incident.peak_step != incident.onset_step:
        axes.axvline(incident.peak_step, color=INK, linewidth=0.6, linestyle=":", zorder=1.4)
        _label(axes, incident.peak_step, f"peak {incident.peak_step}", INK, "left")
    if incident.recovery_step is not None:
        axes.axvline(incident.recovery_step, color=RECOVERY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1.5)
        _label(axes, incident.recovery_step, f"recovery {incident.recovery_step}", RECOVERY, "left")


def _label(axes: Axes, step: int, text: str, color: str, side: str) -> None:
    """A text beside a line, to its `side`; a text that would leave the picture there is on the other one."""
    low, high = axes.get_xlim()
    place = (step - low) / (high - low)
    side = "right" if place > 1 - LABEL_SHARE else "left" if place < LABEL_SHARE else side
    axes.annotate(
        text,
        (step, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-3 if side == "right" else 3, -1),
        textcoords="offset points",
        ha=side,
        va="top",
        fontsize=7.5,
        color=color,
    )


def _span(panels: Sequence[PanelReading]) -> tuple[float, float]:
    steps = [step for panel in panels for trace in panel.traces for step in (trace.step[:1] + trace.step[-1:])]
    return canvas.step_span(steps)


def _stem(panel: PanelReading) -> str:
    return f"{panel.number:02d}-" + (re.sub(r"[^a-z0-9]+", "-", panel.slug.lower()).strip("-") or "panel")
