"""Dataclasses to strict JSON and back: non-finite numbers are the strings "NaN", "Infinity" and "-Infinity"."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

T = TypeVar("T")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBERS = re.compile(r'\[\n((?:\s*(?:-?\d[^\s,]*|"-?(?:NaN|Infinity)"),?\n)+)\s*\]')


def strict_json(value: Any, *, ensure_ascii: bool = True) -> str:
    """Dataclasses, mappings and sequences as indented text, which ends with a newline.

    Half a surrogate pair, which UTF-8 cannot hold, is escaped without `ensure_ascii`, too.
    """
    text = json.dumps(as_json(value), indent=1, allow_nan=False, ensure_ascii=ensure_ascii)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"


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


def build_from(kind: type[T], raw: Any) -> T:
    """The dataclass `kind` from its JSON, checked field by field; a missing field takes its default or is an error.

    Raises TypeError or ValueError, whose message names the field.
    """
    if not isinstance(raw, Mapping):
        raise TypeError(f"expected an object, found {_name(type(raw))}")
    hints = typing.get_type_hints(kind)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast("type[Any]", kind)):
        if field.name in raw:
            try:
                found[field.name] = _coerce(hints[field.name], raw[field.name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{field.name}: {error}") from error
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TypeError(f"no {field.name}")
    return kind(**found)


def _coerce(hint: Any, raw: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "from_text"):
        if not isinstance(raw, str):
            raise TypeError(f"expected a text, found {_name(type(raw))}")
        return hint.from_text(raw)
    if dataclasses.is_dataclass(hint):
        return build_from(typing.cast("type[Any]", hint), raw)
    if origin is tuple:
        if not isinstance(raw, list):
            raise TypeError(f"expected a list, found {_name(type(raw))}")
        inner = arguments[:1] * len(raw) if arguments[-1] is Ellipsis else arguments
        return tuple(_coerce(one, item) for one, item in zip(inner, raw, strict=True))
    if origin is Literal:
        if raw not in arguments:
            raise ValueError(f"{raw!r} is none of {', '.join(map(repr, arguments))}")
        return raw
    if origin in (types.UnionType, typing.Union):
        if raw is None and type(None) in arguments:
            return None
        if isinstance(raw, str) and float in arguments and raw in _NON_FINITE:
            return _NON_FINITE[raw]
        structured = [a for a in arguments if dataclasses.is_dataclass(a) or typing.get_origin(a) is tuple]
        return _coerce(structured[0], raw) if structured else _scalar(arguments, raw)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(raw, Mapping):
            raise TypeError(f"expected an object, found {_name(type(raw))}")
        return {str(key): _coerce(arguments[1], item) for key, item in raw.items()}
    if hint is float and isinstance(raw, str) and raw in _NON_FINITE:
        return _NON_FINITE[raw]
    return _scalar((hint,), raw)


def _scalar(kinds: tuple[Any, ...], raw: Any) -> Any:
    if isinstance(raw, int) and not isinstance(raw, bool) and float in kinds and int not in kinds:
        return float(raw)
    if not isinstance(raw, kinds) or (isinstance(raw, bool) and bool not in kinds):
        raise TypeError(f"expected {' or '.join(map(_name, kinds))}, found {_name(type(raw))}")
    return raw


def _name(kind: type) -> str:
    """A type by the word that JSON has for it."""
    words = {str: "a text", list: "a list", dict: "an object", bool: "true or false", int: "a whole number"}
    return words.get(kind, "null" if kind is type(None) else "a number" if kind is float else kind.__name__)
