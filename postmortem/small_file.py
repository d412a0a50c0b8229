"""The one reader of small files: regular, bounded in bytes, nesting and memory. Files of a run come from strangers.

open_regular    a regular file, opened; a pipe, a device or a folder is refused at once and never waited for
read_bytes      all of a small file; read_text the same as UTF-8
parse_json      JSON text, parse_yaml YAML, parse_toml TOML: what they return is made of what JSON has, nested `DEEPEST`
                deep
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

from postmortem.errors import UnreadableInput
from postmortem.text import plain

LIMIT = 64 * 2**20
"""Bytes of a file that is read whole."""

DEEPEST = 100
"""Levels of lists and objects: what reads them further recurses, and configurations have five or six."""

_MOST_MEMORY = 512 * 2**20  # bytes
_MEMORY = {"{": 184, "[": 80, ",": 40}  # bytes that CPython takes for an object, a list, and one more item
_LONG = 2**20  # characters from which counting is worth its time: shorter text cannot take more memory than there is
_CONFIG_LIMIT = 2**20  # characters of YAML or TOML; PyYAML reads some 0.1 to 2 MB a second, tomllib about one
_YAML_NODES = 100_000  # aliases counted as what they stand for


_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""
# A dotted TOML key of too many parts. tomllib keeps each of its beginnings: the memory is the square of its length.
_DEEP_KEY = re.compile(rf"(?<![A-Za-z0-9_\\-])(?:{_KEY}\.[ \t]*+){{{DEEPEST}}}")


class BeyondLimit(ValueError):
    """Text that would take more nesting, memory or time than is spent on it."""


def open_regular(path: Path, name: str) -> BinaryIO:
    """Open a regular file for reading; `name` names it in the message.

    Raises:
        UnreadableInput: a folder, a pipe, a socket or a device.
        OSError: it does not exist, or may not be read.
    """
    _require_regular(path.stat().st_mode, name)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # what is here now may be a pipe after all
    file = os.fdopen(handle, "rb")
    try:
        _require_regular(os.fstat(handle).st_mode, name)
    except UnreadableInput:
        file.close()
        raise
    return file


def _require_regular(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise UnreadableInput("is a directory where a file is expected.", file=name)
    if not stat.S_ISREG(mode):
        raise UnreadableInput("is no regular file.", file=name)


def read_bytes(path: Path, *, name: str = "", limit: int = LIMIT, hint: str = "") -> bytes:
    """All of a regular file. `name` names it in the message (default: its path), `hint` says what to do next.

    Raises:
        UnreadableInput: no regular file, or one of more than `limit` bytes.
        OSError: it does not exist, or cannot be read.
    """
    shown = name or plain(path, 1000)
    with open_regular(path, shown) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, limit) + 1)  # a buffer of `limit` bytes would take longer than the file
        if size < len(data) <= limit:  # it has grown meanwhile, or its system does not know its size
            data += file.read(limit + 1 - len(data))
    if len(data) > limit:
        raise UnreadableInput(f"larger than {limit >> 20} MiB.", file=shown, hint=hint)
    return data


def read_text(path: Path, *, name: str = "", limit: int = LIMIT, hint: str = "") -> str:
    """`read_bytes` as UTF-8 text, without a byte order mark.

    Raises:
        UnreadableInput: what `read_bytes` refuses, or bytes that are no UTF-8.
        OSError: it does not exist, or cannot be read.
    """
    data = read_bytes(path, name=name, limit=limit, hint=hint)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableInput("not UTF-8 text.", file=name or plain(path, 1000), line=line, hint=hint) from error


def parse_json(text: str, *, round_integers: bool = False) -> Any:
    """The JSON value in `text`; NaN and Infinity are read.

    With `round_integers`, an integer of more digits than Python converts is a float: large, or infinite.

    Raises:
        ValueError: no JSON (a json.JSONDecodeError), or such an integer.
        BeyondLimit: nested more than `DEEPEST` levels deep, or so many values that they would fill the memory.
    """
    if len(text) > _LONG:
        _check_memory(text)
    try:
        value = _loads(text, round_integers)
    except RecursionError as error:
        raise BeyondLimit(f"nested more than {DEEPEST} levels deep") from error
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value)
    return value


def _loads(text: str, round_integers: bool) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        if not round_integers:
            raise
        return json.loads(text, parse_int=float)


def _check_memory(text: str) -> None:
    """Refuse text whose values would take more than `_MOST_MEMORY`: three bytes can ask for two hundred."""
    estimate = sum(text.count(mark) * size for mark, size in _MEMORY.items())
    if estimate > _MOST_MEMORY:
        raise BeyondLimit(
            f"its lists and objects would take more than {_MOST_MEMORY >> 20} MiB of memory, which is the limit"
        )


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _items(outer) if isinstance(inner, (dict, list))]
    if level:
        raise BeyondLimit(f"nested more than {DEEPEST} levels deep")


def _items(value: Any) -> Any:
    return cast("dict[str, Any]", value).values() if isinstance(value, dict) else value


def parse_yaml(text: str) -> Any:
    """The YAML value in `text` as what JSON could hold: dates and the like are text, keys are text.

    Raises:
        ValueError: no YAML, or more than one document.
        BeyondLimit: nested more than `DEEPEST` levels deep, or aliases that multiply.
    """
    import yaml

    _check_length(text, "YAML")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_yaml(yaml.parse(text, Loader=loader))
        return _as_json(yaml.load(text, Loader=loader))  # noqa: S506 - it is the safe loader, in C where it is built
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    except (AttributeError, LookupError, TypeError) as error:  # how PyYAML fails at a value of a wrong tag
        raise ValueError(f"not YAML: a value that does not fit its tag ({error})") from error
    except RecursionError as error:
        raise BeyondLimit(f"nested more than {DEEPEST} levels deep") from error


def parse_toml(text: str) -> Any:
    """The TOML table in `text` as what JSON could hold: dates are text.

    Raises:
        ValueError: no TOML.
        BeyondLimit: tables, lists or keys nested more than `DEEPEST` levels deep.
    """
    import tomllib

    _check_length(text, "TOML")
    if _DEEP_KEY.search(text):
        raise BeyondLimit(f"nested more than {DEEPEST} levels deep")
    try:
        value = tomllib.loads(text)
    except RecursionError as error:
        raise BeyondLimit(f"nested more than {DEEPEST} levels deep") from error
    except ValueError as error:
        raise ValueError(f"not TOML: {error}") from error
    _check_depth(value)
    return _as_json(value)


def _check_length(text: str, kind: str) -> None:
    if len(text) > _CONFIG_LIMIT:
        raise BeyondLimit(
            f"more than {_CONFIG_LIMIT >> 20} MiB of {kind}; JSON is read at any size up to {LIMIT >> 20} MiB"
        )


def _check_yaml(events: Iterable[Any]) -> None:
    """Refuse what would grow or never end when it is read, by the parser's events, before anything is built."""
    size = _YamlSize()
    for event in events:
        size.add(event)
        if len(size.open) > DEEPEST:
            raise BeyondLimit(f"nested more than {DEEPEST} levels deep")
        if size.nodes > _YAML_NODES:
            raise BeyondLimit(f"more than {_YAML_NODES:,} values, aliases counted as what they stand for")


class _YamlSize:
    """Counts nodes. An alias counts as all nodes of its anchor: whatever reads the value visits each of them again."""

    def __init__(self) -> None:
        self.nodes = 0
        self.open: list[tuple[str | None, int]] = []  # (anchor, nodes before it) of each level
        self._sizes: dict[str | None, int] = {}

    def add(self, event: Any) -> None:
        import yaml

        if isinstance(event, yaml.CollectionStartEvent):
            self.open.append((event.anchor, self.nodes))
            self.nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self.open.pop()
            self._sizes[anchor] = self.nodes - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in self.open):
                raise BeyondLimit(f"an alias of itself, *{plain(event.anchor, 60)}")
            self.nodes += self._sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            self._sizes[event.anchor] = 1
            self.nodes += 1


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {key if isinstance(key, str) else str(key): _as_json(inner) for key, inner in items}
    if isinstance(value, (list, tuple, set)):
        return [_as_json(inner) for inner in cast("list[Any]", value)]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
