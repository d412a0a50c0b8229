"""The picture of a diff: the losses, skip windows shaded and discarded stretches dashed, over the gap and its noise.

Style, colours and size are those of the report's panels, so that both can stand on one page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

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
_CROWDED = 400  # rows: of more, the levels are drawn over them
_LARGEST = 1e30  # what is larger, or not finite, is left out: the arithmetic of an axis overflows on it
_LOG_FROM = 30.0  # times its smallest value: a loss that spans more is drawn over a logarithm


def draw(diffs: Sequence[RunsDiff]) -> bytes:
    """A PNG of the first run and of each run that was held against it; the gap is drawn where there is one pair."""
    sides = [diffs[0].a, *(d.b for d in diffs)]
    gap = diffs[0].gap() if len(diffs) == 1 else None
    height = HEIGHT + (GAP_HEIGHT if gap is not None else 0.0)

    def paint(figure: Figure) -> None:
        losses = _axes(figure, height, height - HEIGHT, HEIGHT)
        _losses(losses, sides)
        if gap is not None:
            below = _axes(figure, height, 0.0, GAP_HEIGHT)
            _gap(below, gap.level, gap.band)
            below.set_xlim(losses.get_xlim())
            below.set_title("Gap  (b − a, nats per token, in levels; shaded: noise)", pad=4, parse_math=False)

    return canvas.to_png(canvas.draw(height, paint))


def _axes(figure: Figure, height: float, bottom: float, tall: float) -> Axes:
    inside = (_LEFT, (bottom + _BELOW) / height, _RIGHT - _LEFT, (tall - _ABOVE - _BELOW) / height)
    axes = figure.add_axes(inside)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_digits))
    return axes


def _losses(axes: Axes, sides: Sequence[RunSummary]) -> None:
    axes.set_title("Loss  (nats per token)", pad=4, parse_math=False)
    drawn: list[float] = []
    for n, side in enumerate(sides):
        colour = LINES[n % len(LINES)]
        name = plain(side.id, max(8, 80 // len(sides)))
        name = f"{'ab'[n]}  {name}" if len(sides) == 2 else name
        for stretch in side.discarded:
            if stretch.loss is not None:
                _line(axes, stretch.loss, colour, _THIN, dashed=True)
                drawn += stretch.loss.value
        if side.loss is not None and side.smoothed is not None:
            crowded = len(side.loss.step) > _CROWDED
            width = 1.0 if n else 2.2  # wider below the others, to be seen where they are equal
            _line(axes, side.loss, colour, _THIN if crowded else width, label=None if crowded else name)
            if crowded:
                _line(axes, side.smoothed, colour, width, label=name)
            drawn += side.loss.value
        for rewind in side.rewinds:
            axes.axvline(rewind.step, color=colour, linewidth=0.8, linestyle=":", zorder=1.5)
    shaded = sorted({window for side in sides for window in side.skipped_at})
    for window in shaded:
        label = "skipped" if window is shaded[0] else None
        axes.axvspan(window[0] - 0.5, window[1] - 0.5, color=ONSET, alpha=0.1, linewidth=0, label=label)
    values = np.asarray([v for v in drawn if abs(v) < _LARGEST])
    if values.size and values.min() > 0 and values.max() > _LOG_FROM * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_digits))
    if any(side.discarded for side in sides):
        axes.plot([], [], color=FAINT, linewidth=_THIN, linestyle=_DASHES, label="discarded")
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    legend = axes.legend(
        handles,
        names,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.99),
        ncols=len(sides) + 2,
        borderaxespad=0.0,
        handlelength=1.2,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _gap(axes: Axes, level: Trace, half: Sequence[float]) -> None:
    step, band = np.asarray(level.step), np.minimum(half, _LARGEST)
    axes.fill_between(step, -band, band, color=FAINT, alpha=0.25, linewidth=0)
    axes.axhline(0.0, color=FAINT, linewidth=0.6)
    _line(axes, level, INK)


def _line(
    axes: Axes, trace: Trace, colour: str, width: float = 1.0, *, label: str | None = None, dashed: bool = False
) -> None:
    value = np.asarray(trace.value)
    axes.plot(
        np.asarray(trace.step),
        np.where(np.abs(value) < _LARGEST, value, np.nan),
        color=colour,
        linewidth=width,
        linestyle=_DASHES if dashed else "-",
        zorder=3.0 if dashed else 2.0,  # what was left behind is often just what the other run kept
        label=label,
        alpha=_FAINT if width == _THIN and not dashed else 1.0,
    )


def _digits(value: float, _: int | None = None) -> str:
    return f"{value:.6g}"
