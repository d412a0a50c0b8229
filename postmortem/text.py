"""Text for people: names made harmless for a terminal, short numbers, and how many rows there are."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_ZERO_WIDTH_JOINERS = {"\u200c", "\u200d"}


def plain(text: object, limit: int = 200) -> str:
    """`text` on one line without control, format or bidirectional characters, cut to `limit` characters.

    Names come from strangers and must not control a terminal. Escape sequences lose their ESC byte and become harmless
    letters; a newline or tab becomes a space.
    """
    start = str(text)[: limit + 1]
    if len(start) <= limit and start.isprintable():  # as nearly all names are
        return start
    out: list[str] = []
    for char in start:
        if char in "\t\n\r\v\f\x85\u2028\u2029":
            out.append(" ")
        elif char in _ZERO_WIDTH_JOINERS or unicodedata.category(char)[0] != "C":
            out.append(char)
        else:
            out.append("\ufffd")
    line = "".join(out)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def number(value: float | None) -> str:
    """A number as people read it: four significant digits, an exponent only where it helps, NaN and inf by name."""
    if value is None:
        return "none"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return str(int(value))
    size = abs(value)
    return f"{value:.3g}" if size < 1e-3 or size >= 1e6 else f"{value:.4g}"


def row_range(steps: Sequence[int] | NDArray[np.int64]) -> str:
    """How many rows there are, and at which steps: `2,000 rows, steps 0–1999`, `1 row, step 7`, `0 rows`.

    `steps` is int64[n], ascending.
    """
    if len(steps) == 1:
        return f"1 row, step {steps[0]}"
    return f"{len(steps):,} rows" + (f", steps {steps[0]}–{steps[-1]}" if len(steps) else "")


def count(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun: `1 row`, `3 batches`, `2,000 losses`; `plural` is the regular one unless it is given."""
    regular = singular + ("es" if singular.endswith(("ch", "s", "x")) else "s")
    return f"{number:,} {singular if number == 1 else plural or regular}"


def listed(parts: Sequence[object]) -> str:
    """`a, b and c`; "" of none."""
    *others, last = map(str, parts or ("",))
    return f"{', '.join(others)} and {last}" if others else last


def times(ratio: float) -> str:
    """A ratio as people write it: 3.2×."""
    return f"{ratio:.2g}×" if ratio < 10 else f"{ratio:.3g}×" if ratio < 1e6 else f"{ratio:.1e}×"


def relative_path(path: Path, folder: Path | None) -> str:
    """`path` as seen from `folder`, with forward slashes, if it is inside; otherwise the path as it is."""
    if folder is not None and path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return str(path)
