"""Draws a panel in the default way: each of its traces as a line.

Title, legend and the marks of onset, peak and recovery are the same for all panels: `report/figures.py` adds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from postmortem.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from postmortem.diagnosis import PanelReading

COLORS = ("#0969da", "#bc4c00", "#1b7c83", "#8250df", "#bf3989", "#6e7781")


def draw_lines(ax: Axes, reading: PanelReading) -> None:
    """Draw every trace as a line over steps, and non-finite values as crosses along the lower edge."""
    for trace, color in zip(reading.traces, COLORS, strict=False):
        step, value = np.asarray(trace.step), np.asarray(trace.value, float)
        finite = np.isfinite(value)
        marker = "." if step.size <= 80 else None
        ax.plot(
            step,
            np.where(finite, value, np.nan),
            color=color,
            marker=marker,
            label=plain(trace.name, 40),
        )
        if not finite.all():
            broken = step[~finite]
            ax.plot(broken, np.full(broken.size, 0.05), "x", color=color, ms=4, transform=ax.get_xaxis_transform())
    set_scale(ax, reading)


def set_scale(ax: Axes, reading: PanelReading) -> None:
    """Set a logarithmic scale where the panel asks for one and the values need it."""
    values = np.asarray([v for trace in reading.traces for v in trace.value if np.isfinite(v)])
    if reading.log_scale and values.size and values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")
