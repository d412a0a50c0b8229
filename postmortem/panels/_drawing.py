"""How a panel is drawn unless it says otherwise: its traces as lines, the incident marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from postmortem.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from postmortem.diagnosis import Incident, PanelReading

COLOURS = ("#1f5fa8", "#d9822b", "#3a8f5c", "#8a5aa8", "#b0413e", "#6b7280")
ONSET, AFTER = "#c0262d", "#9aa0a6"


def lines(ax: Axes, reading: PanelReading, incident: Incident | None) -> None:
    """Every trace as a line over steps; non-finite values as crosses along the upper edge."""
    for trace, colour in zip(reading.traces, COLOURS, strict=False):
        step, value = np.asarray(trace.step), np.asarray(trace.value, float)
        finite = np.isfinite(value)
        marker = "." if step.size <= 80 else None
        ax.plot(
            step,
            np.where(finite, value, np.nan),
            color=colour,
            lw=1.2,
            marker=marker,
            ms=3,
            label=plain(trace.name, 40),
        )
        if not finite.all():
            at = step[~finite]
            ax.plot(at, np.full(at.size, 0.97), "x", color=colour, ms=4, transform=ax.get_xaxis_transform())
    finish(ax, reading, incident)


def finish(ax: Axes, reading: PanelReading, incident: Incident | None) -> None:
    """Scale, title, legend and the marks of onset, peak and recovery."""
    values = np.asarray([v for trace in reading.traces for v in trace.value if np.isfinite(v)])
    if reading.log_scale and values.size and values.min() > 0 and values.max() > 20 * np.median(values):
        ax.set_yscale("log")
    if incident is not None:
        _mark(ax, incident)
    ax.set_title(f"{reading.number}  {reading.title}", loc="left", fontsize=9)
    ax.set_ylabel(reading.unit, fontsize=8)
    ax.tick_params(labelsize=8)
    ax.margins(x=0.01)
    ax.grid(True, color="#e6e8eb", lw=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if len(reading.traces) > 1 or (reading.traces and reading.traces[0].name != reading.slug):
        ax.legend(fontsize=7, frameon=False, loc="upper left", ncols=3)


def _mark(ax: Axes, incident: Incident) -> None:
    """The onset as a line (its interval as a band where rows are sparse), peak and recovery dotted."""
    if incident.onset_interval is not None:
        ax.axvspan(*incident.onset_interval, color=ONSET, alpha=0.12, lw=0)
    ax.axvline(incident.onset_step, color=ONSET, lw=1.0)
    for step in (incident.peak_step, incident.recovery_step):
        if step is not None and step != incident.onset_step:
            ax.axvline(step, color=AFTER, lw=0.8, ls=":")
