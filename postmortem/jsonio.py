"""Writes dataclasses as strict JSON and reads them back. Non-finite numbers are "NaN", "Infinity" and "-Infinity"."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from postmortem.errors import UnreadableInput
from postmortem.small_file import parse_json, read_text
from postmortem.text import plain

T = TypeVar("T")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NAMES: dict[type, str] = {
    str: "a text",
    list: "a list",
    dict: "an object",
    Mapping: "an object",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}
_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~\n]")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NUMBERS = re.compile(r'\[\n((?:\s*(?:-?\d[^\s,]*|"-?(?:NaN|Infinity)"),?\n)+)\s*\]')


def strict_json(value: Any, *, ensure_ascii: bool = True, indent: int = 1, sort_keys: bool = False) -> str:
    """Dataclasses, mappings and sequences as indented text, which ends with a newline.

    Characters that nobody sees and that could reorder or control what a terminal shows are escaped in any case.
    """
    raw = as_json(value)
    text = json.dumps(raw, indent=indent, allow_nan=False, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
    invisible = [char for char in set(_NOT_PRINTABLE_ASCII.findall(text)) if unicodedata.category(char) in _INVISIBLE]
    return text.translate({ord(char): _escaped(char) for char in invisible}) + "\n"


def _escaped(char: str) -> str:
    return r"\u007f" if char == "\x7f" else json.dumps(char)[1:-1]  # DEL is ASCII, which json never escapes


def numbers_on_one_line(text: str) -> str:
    """JSON text with each list of numbers on one line: a trace has hundreds.

    Inside a string a newline is escaped, so no text is taken for a list.
    """
    return _NUMBERS.sub(lambda m: "[" + ", ".join(m[1].replace(",", " ").split()) + "]", text)


def as_json(value: Any) -> Any:
    """Dataclasses, tuples and floats as what strict JSON can hold; a class with `from_text` as its text."""
    if isinstance(value, float):  # first: a trace has hundreds
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, int)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "from_text"):
            return str(value)
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, Sequence) else value


def read_record(
    kind: type[T], file: Path, what: str, *, hint: str = "", check: Callable[[dict[str, Any]], None] | None = None
) -> T:
    """The dataclass `kind` from a JSON file, checked field by field. `what` names the file's content: "a diagnosis".

    `check` gets the JSON object first and may refuse it. `hint` tells the user what to do about a damaged file.

    Raises:
        UnreadableInput: the file cannot be read or holds something else; the message names the file and the field.
    """
    name = plain(file, 1000)
    try:
        raw = read_object(file, hint=hint)
    except OSError as error:
        raise UnreadableInput(f"cannot be read ({error.strerror or error}).", file=name) from error
    if check is not None:
        check(raw)
    try:
        return build_from(kind, raw)
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UnreadableInput(f"is not {what} ({plain(error, 120)}).", file=name, hint=hint) from error


def read_object(file: Path, *, hint: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UnreadableInput: the file holds something else, or more than `small_file` reads.
        OSError: it cannot be opened.
    """
    name = plain(file, 1000)
    text = read_text(file, hint=hint)
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise UnreadableInput(f"not JSON ({error.msg}).", file=name, line=error.lineno, hint=hint) from error
    except ValueError as error:
        raise UnreadableInput(f"cannot be read ({plain(error, 120)}).", file=name, hint=hint) from error
    if not isinstance(value, dict):
        raise UnreadableInput("expected an object of keys and values.", file=name, hint=hint)
    return typing.cast("dict[str, Any]", value)


@lru_cache  # evaluating the annotations takes longer than reading a small record
def _fields(kind: type[Any]) -> tuple[tuple[str, Any, bool], ...]:
    """(name, annotation, whether it has no default) of each field of a dataclass."""
    hints, missing = typing.get_type_hints(kind), dataclasses.MISSING
    return tuple(
        (field.name, hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    )


def build_from(kind: type[T], raw: Any) -> T:
    """The dataclass `kind` from its JSON, checked field by field; a missing field takes its default or is an error.

    Raises TypeError or ValueError, whose message names the field.
    """
    _require(Mapping, raw)
    values: dict[str, Any] = {}
    for name, hint, required in _fields(kind):
        if name in raw:
            try:
                values[name] = _coerce(hint, raw[name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from error
        elif required:
            raise TypeError(f"no {name}")
    return kind(**values)


@lru_cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The generic type and its arguments of an annotation; (None, ()) of a plain one."""
    return typing.get_origin(hint), typing.get_args(hint)


def _coerce(hint: Any, raw: Any) -> Any:
    """`raw` as a value of the annotation `hint`."""
    if hint is Any or type(raw) is hint:  # first: nearly all are
        return raw
    origin, arguments = _parts(hint)
    if origin is None and hasattr(hint, "from_text"):
        _require(str, raw)
        return hint.from_text(raw)
    if origin is None and dataclasses.is_dataclass(hint):
        return build_from(typing.cast("type[Any]", hint), raw)
    if origin is tuple:
        return _tuple(arguments, raw)
    if origin is Literal:
        return _literal(arguments, raw)
    if origin in (types.UnionType, typing.Union):
        return _union(arguments, raw)
    if origin is not None and issubclass(origin, Mapping):
        _require(Mapping, raw)
        return {str(key): _coerce(arguments[1], item) for key, item in raw.items()}
    return _scalar((hint,), raw)


def _require(kind: type, raw: Any) -> None:
    if not isinstance(raw, kind):
        raise TypeError(f"expected {_name(kind)}, found {_name(type(raw))}")


def _tuple(hints: tuple[Any, ...], raw: Any) -> tuple[Any, ...]:
    _require(list, raw)
    by_item = hints[:1] * len(raw) if hints[-1] is Ellipsis else hints
    return tuple(_coerce(hint, item) for hint, item in zip(by_item, raw, strict=True))


def _literal(values: tuple[Any, ...], raw: Any) -> Any:
    if raw not in values:
        raise ValueError(f"expected one of {', '.join(map(repr, values))}, found {raw!r}")
    return raw


def _union(hints: tuple[Any, ...], raw: Any) -> Any:
    if raw is None and type(None) in hints:
        return None
    structured = [hint for hint in hints if dataclasses.is_dataclass(hint) or _parts(hint)[0] in (tuple, Mapping)]
    if structured and not _is_non_finite(hints, raw):
        return _coerce(structured[0], raw)
    return _scalar(hints, raw)


def _is_non_finite(kinds: tuple[Any, ...], raw: Any) -> bool:
    return isinstance(raw, str) and float in kinds and raw in _NON_FINITE


def _scalar(kinds: tuple[Any, ...], raw: Any) -> Any:
    if _is_non_finite(kinds, raw):
        return _NON_FINITE[raw]
    if isinstance(raw, int) and not isinstance(raw, bool) and float in kinds and int not in kinds:
        return float(raw)
    if not isinstance(raw, kinds) or (isinstance(raw, bool) and bool not in kinds):
        raise TypeError(f"expected {' or '.join(map(_name, kinds))}, found {_name(type(raw))}")
    return raw


def _name(kind: type) -> str:
    """A type by the word that JSON has for it."""
    return _NAMES.get(kind, kind.__name__)
