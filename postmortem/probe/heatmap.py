"""Writes the files of a probe, and its picture: a heat map of batches by states, loss above gradient norm.

The picture has the style of the report's panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from postmortem.atomic import make_folder, saving, write_bytes, write_text
from postmortem.jsonio import strict_json
from postmortem.probe.measurement import ProbeResult, StateProbe
from postmortem.report import canvas
from postmortem.report.canvas import INK, LINES
from postmortem.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_ROW = 0.3  # inches per state
_ABOVE, _BELOW = 0.34, 0.36  # inches above and below each map
_LEFT, _RIGHT = 0.075, 0.925  # shares of the width; the color bar is to the right
_MAX_LABELED = 16  # up to so many batches, every cell shows its value


def write_probe(result: ProbeResult, out: Path, *, within: Path | None = None) -> Path:
    """Write <first>-<last>.json and .png into the folder `out`; return the picture's path. `within` is the folder that
    they must not leave by a link, None where a person named `out`. Raises CannotWrite."""
    stem = f"{result.window[0]}-{result.window[1]}"
    with saving(out, within=within):
        make_folder(out)
        write_text(out / f"{stem}.json", strict_json(result), within=within)
        write_bytes(out / f"{stem}.png", draw_probe(result), within=within)
    return out / f"{stem}.png"


def draw_probe(result: ProbeResult) -> bytes:
    """A PNG. Cells of unusual batches have a frame; cells without a finite value are black."""
    tall = max(2, len(result.states)) * _ROW
    height = 2 * (tall + _ABOVE + _BELOW)

    def paint(figure: Figure) -> None:
        maps = (
            (height - _ABOVE - tall, "Loss  (nats per token, by the state it meets)", [s.loss for s in result.states]),
            (_BELOW, "Gradient norm  (L2, before clipping)", [s.grad_norm for s in result.states]),
        )
        for bottom, title, values in maps:
            axes = figure.add_axes((_LEFT, bottom / height, _RIGHT - _LEFT, tall / height))
            image = _draw_map(axes, result, values)
            note = canvas.clipped_note([v for row in values for v in row if v is not None])
            axes.set_title(title + note, pad=4, parse_math=False)
            bar = figure.add_axes((_RIGHT + 0.012, bottom / height, 0.012, tall / height))
            if image is not None:
                _draw_color_bar(figure, image, bar)
            else:
                bar.set_axis_off()

    return canvas.to_png(canvas.draw(height, paint, **{"axes.grid": False}))


def _draw_map(axes: Axes, result: ProbeResult, rows: Sequence[Sequence[float | None]]) -> AxesImage | None:
    """One row of cells for each state; None if no value is finite."""
    first, last = result.window
    values = np.array([[np.nan if v is None else v for v in row] for row in rows], np.float64)
    shown = canvas.drawable(values)
    positive = np.where(shown > 0, shown, np.nan)
    edges = (first - 0.5, last - 0.5, len(rows) - 0.5, -0.5)
    axes.set(xlim=edges[:2], ylim=edges[2:])
    axes.set_facecolor("black")
    image = None
    if np.isfinite(positive).any():
        low, high = float(np.nanmin(positive)), float(np.nanmax(positive))
        scale = LogNorm(low, high) if high > 10 * low else None
        image = axes.imshow(positive, cmap="YlOrRd", norm=scale, aspect="auto", extent=edges, interpolation="nearest")
    axes.yaxis.set_major_locator(FixedLocator(list(range(len(rows)))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda position, _: f"step {result.states[round(position)].step}"))
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda position, _: f"{position:.0f}"))
    axes.set_xlabel("batch", labelpad=1)
    for row, state in enumerate(result.states):
        _frame_bad_cells(axes, row, state)
    if last - first <= _MAX_LABELED:
        for (row, column), value in np.ndenumerate(values):
            if rows[row][column] is not None:
                _label_cell(axes, first + column, row, float(value), image)
    return image


def _frame_bad_cells(axes: Axes, row: int, state: StateProbe) -> None:
    for index in state.bad:
        corner = (index - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=LINES[0], linewidth=2.0, zorder=3))


def _label_cell(axes: Axes, batch: int, row: int, value: float, image: AxesImage | None) -> None:
    dark = image is None or not np.isfinite(value) or float(np.asarray(image.norm(canvas.drawable(value)))) > 0.6
    axes.text(batch, row, number(value), ha="center", va="center", fontsize=7, color="white" if dark else INK)


def _draw_color_bar(figure: Figure, image: AxesImage, axes: Axes) -> None:
    bar = figure.colorbar(image, cax=axes)
    bar.ax.yaxis.set_major_locator(MaxNLocator(3))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))
