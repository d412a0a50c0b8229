"""One change to a training as a value: causes predict what comes of it, replays and guards apply it.

    distinct                 a name alone
    skip=312:314,320:322     windows of batches, [first, last)
    replace=312:313@400      windows, and whatever else it needs after the @
    lr-scale=0.5             a number
    moments=estimated:20     a word, and its numbers after colons
    set=optimizer.clip=0.1   a key of the config, and its value, which is taken as it stands

This is the only place that reads and prints such a text: on the command line, in JSON, and as a name of a folder.
"""

from __future__ import annotations

import math
import re
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
    """An intervention by `name`. `windows` are the batches that it is about; `values` are numbers and words; `key` is
    the dotted key of the config that takes the one value."""

    name: str
    windows: tuple[Window, ...] = ()
    values: tuple[Value, ...] = ()
    key: str = ""

    def __str__(self) -> str:
        body = self.body
        return f"{self.name}={body}" if body else self.name

    @property
    def body(self) -> str:
        """The text after the name; "" where the name says it all."""
        if self.key:
            return f"{self.key}={self.values[0]}" if self.values else self.key
        spans = ",".join(f"{first}:{last}" for first, last in self.windows)
        apart = ":" if self.values and isinstance(self.values[0], str) else ","
        return "@".join(part for part in (spans, apart.join(map(str, self.values))) if part)

    @classmethod
    def from_text(cls, text: str, *, batches: bool = False) -> Change:
        """The change that `text` spells; `batches`: a whole number by itself is a batch, a window of one.

        Any text spells one: whether a change of that name exists, and means something by these values, is for whoever
        applies it. Raises ValueError for a window that holds no batch, and for a value that is left out.
        """
        name, _, body = text.partition("=")
        name, body = name.strip(), body.strip()
        key, equals, value = body.partition("=")
        if equals and key:
            return cls(name, values=(value,), key=key)
        before, at, after = body.partition("@")
        windows = _windows(text, before, lone=batches or bool(at))
        if windows is not None:
            return cls(name, windows, _values(after) if at else ())
        return cls(name, values=_values(body))


def merged(windows: tuple[Window, ...] | list[Window]) -> tuple[Window, ...]:
    """Windows in order, those that touch as one."""
    found: list[Window] = []
    for first, last in sorted(windows):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def shown(window: Window) -> str:
    """A window as people read it: [312, 512)."""
    return f"[{window[0]}, {window[1]})"


def _windows(text: str, spans: str, *, lone: bool) -> tuple[Window, ...] | None:
    """The windows that `spans` lists; None where it lists something else."""
    found: list[Window] = []
    for span in spans.split(","):
        pair = _WINDOW.fullmatch(span)
        if pair is not None:
            found.append((int(pair[1]), int(pair[2])))
        elif lone and span.isascii() and span.isdecimal() and len(span) <= 15:
            found.append((int(span), int(span) + 1))
        else:
            return None
    for first, last in found:
        if last <= first:
            what = f"[{first}, {last}) holds no batch; expected FIRST:LAST, half-open"
            raise ValueError(f"{plain(text, 60)}: {what}")
    return tuple(found)


def _values(text: str) -> tuple[Value, ...]:
    if not text:
        return ()
    parts = text.split(":" if _WORD.match(text) else ",")
    if not all(parts):
        raise ValueError(f"{plain(text, 60)}: a value is missing between two separators, or at an end")
    return tuple(map(_value, parts))


def _value(text: str) -> Value:
    """A number where it is finite and spelled as one, else the word itself."""
    if _WHOLE.fullmatch(text):
        return int(text)
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else text
