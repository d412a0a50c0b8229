"""The shape of a file's content by its head, whatever its name ends in: JSON lines, a JSON list, a plain table."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from typing import Any, cast

from postmortem.run.columns import EPOCH_ALIASES
from postmortem.run.naming import STEP_NAMES, bare
from postmortem.run.values import is_spelled, parse_number
from postmortem.small_file import parse_json
from postmortem.sources._source import Candidate

_FIRST_LINES = 8
_FEWEST_ROWS = 2
_DELIMITERS = ",;\t"
_QUOTED = re.compile('"[^"]*"')
_NAME = re.compile(r"[^\W\d][^:={}]{0,79}")
"""A column's name: a line such as `step: 1, loss: 2` is no header."""


def counts_steps(names: Iterable[str]) -> bool:
    """Whether one of the names is known to count steps or epochs, as in every log of a run."""
    return any(bare(name) in STEP_NAMES or bare(name) in EPOCH_ALIASES for name in names)


def json_lines(candidate: Candidate) -> tuple[dict[str, object], ...]:
    """The objects in the first lines of a file of JSON lines, two or more; () where a line is something else."""
    objects: list[dict[str, object]] = []
    for line in _first_lines(candidate):
        value = _json_value(line)
        if not isinstance(value, dict):
            return ()
        objects.append(cast(dict[str, object], value))
    return tuple(objects) if len(objects) >= _FEWEST_ROWS else ()


def first_of_list(candidate: Candidate) -> dict[str, object] | None:
    """The first object of a JSON list of objects; None where the file is something else."""
    text = candidate.head.decode("utf-8-sig", errors="ignore").lstrip()
    inner = text[1:].lstrip()
    if not text.startswith("[") or not inner.startswith("{"):
        return None
    try:
        return json.JSONDecoder().raw_decode(inner)[0]
    except (ValueError, RecursionError):
        return None


def table_header(candidate: Candidate) -> tuple[str, ...]:
    """The names in the first line of a plain table: two or more, above rows of as many fields that are mostly numbers;
    () where the file is something else."""
    try:
        lines = [line.decode("utf-8-sig") for line in _first_lines(candidate)]
    except UnicodeDecodeError:
        return ()
    if len(lines) <= _FEWEST_ROWS:
        return ()
    delimiter = delimiter_of(lines[0])
    header, *rows = ([field.strip() for field in fields_of(line, delimiter)] for line in lines)
    if len(header) < 2 or len(set(header)) < len(header) or not all(map(_NAME.fullmatch, header)):
        return ()
    if any(len(row) != len(header) for row in rows):
        return ()
    cells = [cell for row in rows for cell in row if cell]
    return tuple(header) if 2 * sum(map(_is_number, cells)) > len(cells) else ()


def delimiter_of(header: str) -> str:
    """The character between the names of a header: a comma, a semicolon or a tab."""
    return max(_DELIMITERS, key=_QUOTED.sub("", header).count)


def fields_of(line: str, delimiter: str) -> list[str]:
    """The fields of one line of CSV; none where its quotes make no sense."""
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _first_lines(candidate: Candidate) -> list[bytes]:
    """The first lines that are not blank, without a last one that may be torn, if there are enough without it."""
    lines = candidate.head.split(b"\n")
    whole = [line for line in lines[:-1] if line.strip()]
    return (whole if len(whole) > _FEWEST_ROWS else [*whole, *filter(bytes.strip, lines[-1:])])[:_FIRST_LINES]


def _json_value(line: bytes) -> Any:
    if not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        return None
    try:
        return parse_json(line.decode("utf-8-sig"), round_integers=True)
    except ValueError:
        return None


def _is_number(cell: str) -> bool:
    if is_spelled(cell):
        return True
    try:
        return parse_number(cell) is not None
    except ValueError:
        return False
