"""Draws pictures with matplotlib (without pyplot), in one style, as small PNGs without a date in them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

WIDTH = 9.0  # inches; a picture is 990 px wide at DPI, so that a README does not scale it up
DPI = 110
COLORS = 64  # in the palette: enough for lines and antialiased text, and a third of the bytes

INK = "#24292f"
FAINT = "#8c959f"
GRID = "#eaeef2"
ONSET = "#cf222e"
RECOVERY = "#1a7f37"
LINES = ("#0969da", "#bc4c00", "#8250df", "#1b7c83", "#bf3989", "#6e7781", "#4d2d00", "#116329")

LARGEST, SMALLEST = 1e30, 1e-100
"""Sizes of the values that are drawn: the arithmetic of axes, transforms and color maps overflows far beyond."""

STYLE: Any = {
    "font.size": 8.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "ytick.minor.size": 0.0,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 7.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "axes.xmargin": 0.0,
    "axes.ymargin": 0.14,
    "axes.prop_cycle": f"cycler(color={list(LINES)})",
    "axes.formatter.useoffset": False,
}


def drawable(values: ArrayLike) -> NDArray[np.float64]:
    """Values that an axis can be calculated for: those beyond ±`LARGEST` are drawn there, those within ±`SMALLEST` as
    zero; what is not finite is NaN, which is not drawn. The difference of two of them, and its square, is finite.

    Whoever draws them says `clipped_note` in the picture.
    """
    array = np.asarray(values, np.float64)
    array = np.where(np.isfinite(array), array, np.nan)
    return np.where(np.abs(array) < SMALLEST, 0.0, np.clip(array, -LARGEST, LARGEST))


def clipped_note(*values: ArrayLike) -> str:
    """What a title says of values, some of which `drawable` had to clip; else ""."""
    arrays = [np.asarray(array, np.float64) for array in values]
    clipped = any(bool((np.isfinite(array) & (np.abs(array) > LARGEST)).any()) for array in arrays)
    return f"  · clipped at ±{LARGEST:.0e}".replace("e+", "e") if clipped else ""


def step_span(steps: Sequence[int]) -> tuple[float, float]:
    """Limits of an axis around `steps`, which differ also where floats are more than one step apart."""
    low, high = float(min(steps, default=0)), float(max(steps, default=0))
    beside = max(0.5, 1e-12 * max(abs(low), abs(high)))
    return low - beside, high + beside


def draw(height: float, paint: Callable[[Figure], None], **style: Any) -> Image.Image:
    """A picture WIDTH × `height` inches, painted by `paint`; `style` overrides STYLE."""
    with matplotlib.rc_context():
        # The user's matplotlibrc is overridden, except for the backend: naming it would import pyplot.
        defaults = {key: matplotlib.rcParamsDefault[key] for key in matplotlib.rcParamsDefault if "backend" not in key}
        matplotlib.rcParams.update(defaults | STYLE | style)
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        paint(figure)
        canvas.draw()
    pixels = Image.fromarray(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3]))
    return pixels.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def style_axes(axes: Axes, title: str, tick_label: Callable[[float, int | None], str]) -> None:
    """Title, ticks and tick labels of `axes`, whose lines are drawn already: few ticks, whole steps, plain digits."""
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_label_coords(0, 0)  # there are no axis labels; with a fixed place, matplotlib need not measure ticks
        axis.set_major_formatter(FuncFormatter(tick_label))
    axes.set_title(title, pad=4, parse_math=False)


def add_legend(axes: Axes, names: Sequence[str], *, columns: int, bottom: float) -> None:
    """A legend of the lines on `axes` beside the title, with `names` in order; `bottom` is a share of the height."""
    legend = axes.legend(
        axes.get_legend_handles_labels()[0],
        names,
        loc="lower right",
        bbox_to_anchor=(1.0, bottom),
        ncols=columns,
        borderaxespad=0.0,
        handlelength=1.2,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def to_png(picture: Image.Image) -> bytes:
    """The picture as a PNG without date and version, so that equal data give equal bytes."""
    out = io.BytesIO()
    picture.save(out, "PNG", dpi=(DPI, DPI))
    return out.getvalue()
