"""How a panel draws itself unless it says otherwise: its traces as lines.

Title, legend and the marks of onset, peak and recovery are the same for all panels and belong to the report's figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from postmortem.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from postmortem.diagnosis import PanelReading

COLOURS = ("#0969da", "#bc4c00", "#1b7c83", "#8250df", "#bf3989", "#6e7781")


def lines(ax: Axes, reading: PanelReading) -> None:
    """Every trace as a line over steps; non-finite values as crosses along the lower edge."""
    for trace, colour in zip(reading.traces, COLOURS, strict=False):
        step, value = np.asarray(trace.step), np.asarray(trace.value, float)
        finite = np.isfinite(value)
        marker = "." if step.size <= 80 else None
        ax.plot(
            step,
            np.where(finite, value, np.nan),
            color=colour,
            marker=marker,
            label=plain(trace.name, 40),
        )
        if not finite.all():
            at = step[~finite]
            ax.plot(at, np.full(at.size, 0.05), "x", color=colour, ms=4, transform=ax.get_xaxis_transform())
    finish(ax, reading)


def finish(ax: Axes, reading: PanelReading) -> None:
    """A logarithmic scale where the panel asks for one and the values need it."""
    values = np.asarray([v for trace in reading.traces for v in trace.value if np.isfinite(v)])
    if reading.log_scale and values.size and values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")
