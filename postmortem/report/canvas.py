"""One way to a picture: matplotlib without pyplot, in one style, as a PNG with few colors and no date in it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

WIDTH = 9.0  # inches; at DPI a picture is 990 px wide: a README shows it without scaling it up
DPI = 110
COLORS = 64  # of the palette; lines and antialiased text need no more, and a picture takes a third of the bytes

INK = "#24292f"
FAINT = "#8c959f"
GRID = "#eaeef2"
ONSET = "#cf222e"
RECOVERY = "#1a7f37"
LINES = ("#0969da", "#bc4c00", "#8250df", "#1b7c83", "#bf3989", "#6e7781", "#4d2d00", "#116329")

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


def draw(height: float, paint: Callable[[Figure], None], **style: Any) -> Image.Image:
    """A picture WIDTH × `height` inches, painted by `paint`; `style` is what is set otherwise than in STYLE."""
    with matplotlib.rc_context():
        # Whatever the person's own matplotlibrc says; but for the backend, whose mention alone would import pyplot.
        own = {key: matplotlib.rcParamsDefault[key] for key in matplotlib.rcParamsDefault if "backend" not in key}
        matplotlib.rcParams.update(own | STYLE | style)
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        paint(figure)
        canvas.draw()
    pixels = Image.fromarray(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3]))
    return pixels.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def to_png(picture: Image.Image) -> bytes:
    """The picture as PNG, without date and version: equal data give equal bytes."""
    out = io.BytesIO()
    picture.save(out, "PNG", dpi=(DPI, DPI))
    return out.getvalue()
