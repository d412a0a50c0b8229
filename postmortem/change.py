"""One change to a training as a value: causes predict its effect, a replay applies it.

    distinct                 a name alone
    skip=312:314,320:322     windows of batches, [first, last)
    replace=312:313@400      windows, and further values after the @
    lr-scale=0.5             a number
    moments=estimated:20     a word, and its numbers after colons
    set=optimizer.clip=0.1   a key of the config, and its value as plain text

This is the only place that reads and prints such a text: on the command line, in JSON, and as a name of a folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from postmortem.text import plain

Window: TypeAlias = tuple[int, int]
"""Batch indices [first, last)."""

Value: TypeAlias = int | float | str

_WHOLE = re.compile(r"-?\d{1,15}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_WINDOW = re.compile(r"(\d{1,15}):(\d{1,15})", re.ASCII)
_WORD = re.compile(r"[a-z]", re.IGNORECASE)


@dataclass(frozen=True)
class Change:
    """The intervention `name` and its values. `windows` are windows of batches; `values` are numbers and words; `key`
    is a dotted key of the config, which gets the only value."""

    name: str
    windows: tuple[Window, ...] = ()
    values: tuple[Value, ...] = ()
    key: str = ""

    def __str__(self) -> str:
        body = self.body
        return f"{self.name}={body}" if body else self.name

    @property
    def body(self) -> str:
        """The text after the name; "" if there are no values."""
        if self.key:
            return f"{self.key}={self.values[0]}" if self.values else self.key
        windows = ",".join(f"{first}:{last}" for first, last in self.windows)
        separator = ":" if self.values and _WORD.match(str(self.values[0])) else ","  # as `_parse_values` splits it
        return "@".join(part for part in (windows, separator.join(map(str, self.values))) if part)

    @classmethod
    def from_text(cls, text: str, *, batches: bool = False) -> Change:
        """The change that `text` describes. `batches`: a whole number by itself is a batch, that is, a window of one.

        Any name and values are accepted here: interventions check them. Raises ValueError for a window without a batch,
        and for a missing value.
        """
        name, _, body = text.partition("=")
        name, body = name.strip(), body.strip()
        key, equals, value = body.partition("=")
        if equals and key:
            return cls(name, values=(value,), key=key)
        spans, separator, rest = body.partition("@")
        windows = _parse_windows(text, spans, lone=batches or bool(separator))
        if windows is not None:
            return cls(name, windows, _parse_values(rest) if separator else ())
        return cls(name, values=_parse_values(body))


def merge_windows(windows: tuple[Window, ...] | list[Window]) -> tuple[Window, ...]:
    """Windows in ascending order; those that overlap or touch become one."""
    merged: list[Window] = []
    for first, last in sorted(windows):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def overlap(windows: Iterable[Window], others: Iterable[Window]) -> bool:
    """Whether any batch is in a window of both."""
    listed = tuple(others)
    return any(first < end and begin < last for first, last in windows for begin, end in listed)


def format_window(window: Window) -> str:
    """A window for people to read: [312, 512)."""
    return f"[{window[0]}, {window[1]})"


def _parse_windows(text: str, spans: str, *, lone: bool) -> tuple[Window, ...] | None:
    """The windows that `spans` lists; None if it lists anything else."""
    windows: list[Window] = []
    for span in spans.split(","):
        pair = _WINDOW.fullmatch(span)
        if pair is not None:
            windows.append((int(pair[1]), int(pair[2])))
        elif lone and span.isascii() and span.isdecimal() and len(span) <= 15:
            windows.append((int(span), int(span) + 1))
        else:
            return None
    for first, last in windows:
        if last <= first:
            reason = f"[{first}, {last}) contains no batch; expected FIRST:LAST, half-open"
            raise ValueError(f"{plain(text, 60)}: {reason}")
    return tuple(windows)


def _parse_values(text: str) -> tuple[Value, ...]:
    if not text:
        return ()
    parts = text.split(":" if _WORD.match(text) else ",")
    if not all(parts):
        raise ValueError(f"{plain(text, 60)}: a value is missing between two separators, or at an end")
    return tuple(map(_parse_value, parts))


def _parse_value(text: str) -> Value:
    """A finite number if `text` is one, otherwise the text itself."""
    if _WHOLE.fullmatch(text):
        return int(text)
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else text
