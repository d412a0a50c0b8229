"""Draws the picture of a diff: the losses with skip windows and rolled-back stretches, above the gap and its noise.

Style, colors and size are those of the report's panels, so that both fit on one page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from postmortem.diff.model import RunsDiff, RunSummary
from postmortem.report import canvas
from postmortem.report.canvas import FAINT, INK, LINES, ONSET
from postmortem.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from postmortem.diagnosis import Trace

HEIGHT, GAP_HEIGHT = 2.6, 1.3  # inches of the losses and of the gap, titles and step labels included
_ABOVE, _BELOW = 0.3, 0.3
_LEFT, _RIGHT = 0.075, 0.985
_DASHES = (0, (4, 2))
_THIN, _FAINT = 0.6, 0.35
_CROWDED = 400  # rows: where there are more, the levels are drawn over them
_LOG_FROM = 30.0  # a loss that spans more than this many times its smallest value gets a logarithmic axis


def draw(diffs: Sequence[RunsDiff]) -> bytes:
    """A PNG of the first run and each run that was compared with it; with the gap where there is only one pair."""
    summaries = [diffs[0].a, *(d.b for d in diffs)]
    gap = diffs[0].gap() if len(diffs) == 1 else None
    height = HEIGHT + (GAP_HEIGHT if gap is not None else 0.0)

    def paint(figure: Figure) -> None:
        losses = _add_axes(figure, height, height - HEIGHT, HEIGHT)
        _draw_losses(losses, summaries)
        if gap is not None:
            below = _add_axes(figure, height, 0.0, GAP_HEIGHT)
            _draw_gap(below, gap.level, gap.band)
            below.set_xlim(losses.get_xlim())

    return canvas.to_png(canvas.draw(height, paint))


def _add_axes(figure: Figure, height: float, bottom: float, rows_height: float) -> Axes:
    axes_height = (rows_height - _ABOVE - _BELOW) / height
    return figure.add_axes((_LEFT, (bottom + _BELOW) / height, _RIGHT - _LEFT, axes_height))


def _draw_losses(axes: Axes, summaries: Sequence[RunSummary]) -> None:
    drawn: list[float] = []
    for n, summary in enumerate(summaries):
        name = plain(summary.id, max(8, 80 // len(summaries)))
        name = f"{'ab'[n]}  {name}" if len(summaries) == 2 else name
        width = 1.0 if n else 2.2  # the first line is wider and below, so that it is visible where all are equal
        drawn += _draw_run(axes, summary, name, LINES[n % len(LINES)], width)
    shaded = sorted({window for summary in summaries for window in summary.skipped_at})
    for window in shaded:
        label = "skipped" if window is shaded[0] else None
        axes.axvspan(window[0] - 0.5, window[1] - 0.5, color=ONSET, alpha=0.1, linewidth=0, label=label)
    values = canvas.drawable(drawn)
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > _LOG_FROM * values.min():
        axes.set_yscale("log")
    if any(summary.discarded for summary in summaries):
        axes.plot([], [], color=FAINT, linewidth=_THIN, linestyle=_DASHES, label="rolled back")
    canvas.style_axes(axes, f"Loss  (nats per token){canvas.clipped_note(drawn)}", _tick_label)
    names = axes.get_legend_handles_labels()[1]
    if names:
        canvas.add_legend(axes, names, columns=len(summaries) + 2, bottom=0.99)


def _draw_run(axes: Axes, summary: RunSummary, name: str, color: str, width: float) -> list[float]:
    """Draw the loss of one run, its discarded stretches and its rewinds; returns the losses that were drawn."""
    drawn: list[float] = []
    for stretch in summary.discarded:
        if stretch.loss is not None:
            _draw_line(axes, stretch.loss, color, _THIN, dashed=True)
            drawn += stretch.loss.value
    if summary.loss is not None and summary.smoothed is not None:
        crowded = len(summary.loss.step) > _CROWDED
        _draw_line(axes, summary.loss, color, _THIN if crowded else width, label=None if crowded else name)
        if crowded:
            _draw_line(axes, summary.smoothed, color, width, label=name)
        drawn += summary.loss.value
    for rewind in summary.rewinds:
        axes.axvline(rewind.step, color=color, linewidth=0.8, linestyle=":", zorder=1.5)
    return drawn


def _draw_gap(axes: Axes, level: Trace, half: Sequence[float]) -> None:
    step, band = np.asarray(level.step, float), canvas.drawable(half)
    axes.fill_between(step, -band, band, color=FAINT, alpha=0.25, linewidth=0)
    axes.axhline(0.0, color=FAINT, linewidth=0.6)
    _draw_line(axes, level, INK)
    note = canvas.clipped_note(level.value, half)
    canvas.style_axes(axes, f"Gap  (b − a, nats per token, in levels; shaded: noise){note}", _tick_label)


def _draw_line(
    axes: Axes, trace: Trace, color: str, width: float = 1.0, *, label: str | None = None, dashed: bool = False
) -> None:
    axes.plot(
        np.asarray(trace.step, float),
        canvas.drawable(trace.value),
        color=color,
        linewidth=width,
        linestyle=_DASHES if dashed else "-",
        zorder=3.0 if dashed else 2.0,  # one run often rolled back exactly what the other run kept
        label=label,
        alpha=_FAINT if width == _THIN and not dashed else 1.0,
    )


def _tick_label(value: float, _: int | None = None) -> str:
    return f"{value:.6g}"
