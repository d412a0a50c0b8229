"""Escapes text from a run, so that it is harmless in Markdown, in HTML made from it, and in template languages.

`escape` is the default for every value that a template prints; text that a filter has made safe is a `Safe` string.
Only characters with a meaning are escaped, so that the raw text stays easy to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from unicodedata import combining, east_asian_width

from postmortem.report.wording import LIMIT
from postmortem.text import plain

_BLOCK_START = re.compile(r"^(?:(#{1,6}|[-+])(?=\s|$)|(?=[=~-]{2,})|(>))")
_ORDERED_START = re.compile(r"^(\d{1,9})(?=[.)](?:\s|$))")
_TEMPLATE = re.compile(r"\{(?=[{%#]|$)")
_TAG = re.compile(r"<(?![\s\d=.-])")
_ENTITY = re.compile(r"&(?=#?\w)")
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # inside a word it is not emphasis
_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_BRACKET = r"(?<=\])[(\[:]|^\[|!(?=\[)"  # brackets matter only where a link or its definition could begin
_PUNCTUATION = re.compile(r"[\\`*|$]|~(?=~)|" + _BRACKET)
_CODE = re.compile(r"[\w ./,:;=+\-@%()<>*#'\[\]\"!?…·→–—]+")


class Safe(str):
    """Markdown that is escaped already."""

    __slots__ = ()


def escape(value: object) -> Safe:
    """`value` as one line of Markdown text that renders as itself and does nothing else."""
    if isinstance(value, Safe):
        return value
    text = plain(value, LIMIT)
    text = _PUNCTUATION.sub(lambda m: "\\" + m[0], text)
    text = _UNDERSCORE.sub(r"\\_", text)
    text = _ENTITY.sub("&amp;", text)
    text = _TAG.sub("&lt;", text)
    text = _TEMPLATE.sub("&#123;", text)
    text = _LINK.sub(lambda m: "&#58;" if m[0] == ":" else "&#46;", text)
    text = _BLOCK_START.sub(lambda m: "\\" + m[0], text)
    return Safe(_ORDERED_START.sub(r"\1\\", text))


def code(value: object) -> Safe:
    """A code span, or escaped text where a character of `value` would not be safe in a code span."""
    text = plain(value, LIMIT).strip()
    return Safe(f"`{text}`") if _CODE.fullmatch(text) and "://" not in text else escape(text)


def block(value: object) -> Safe:
    """A fenced code block of one line, or escaped text where a template engine would interpret the line."""
    text = plain(value, LIMIT)
    if _TEMPLATE.search(text):
        return escape(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Safe(f"{fence}sh\n{text}\n{fence}")


def table(headers: Sequence[object], rows: Iterable[Sequence[object]]) -> Safe:
    """A pipe table whose columns line up in the raw text as well."""
    cells = [[escape(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(3, *(_width(row[i]) for row in cells)) for i in range(len(headers))]
    lines = ["| " + " | ".join(c + " " * (w - _width(c)) for c, w in zip(r, widths, strict=True)) + " |" for r in cells]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return Safe("\n".join(lines))


def _width(text: str) -> int:
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
