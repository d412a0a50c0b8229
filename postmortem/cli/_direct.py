"""Calls a command without typer where its words are plain: reading them takes typer as long as judging a short log.

What is read here is a part of what typer reads: long options as they are declared, with a value of their own word, and
arguments. All else, such as help, an abbreviation, a value that begins with a hyphen, or a mistake, is left to typer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from enum import EnumMeta
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer import Exit
from typer.models import ArgumentInfo, OptionInfo

_WHOLE, _REAL = re.compile(r"[0-9]{1,15}"), re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")


class _NotPlainError(Exception):
    """Words that typer must read."""


def direct_call(command: Callable[..., object], words: Sequence[str]) -> Callable[[], int | None] | None:
    """What calls `command` as typer would with these words; None where typer must read them."""
    try:
        values = _values(command, words)
    except _NotPlainError:
        return None

    def call() -> int | None:
        try:
            command(**values)
        except Exit as end:
            return end.exit_code
        return None

    return call


def _values(command: Callable[..., object], words: Sequence[str]) -> dict[str, object]:
    parameters = {name: _parameter(p) for name, p in _annotated(command)}
    options = {d: name for name, (info, _, _) in parameters.items() for d in _declared(info)}
    arguments = [name for name, (info, _, _) in parameters.items() if isinstance(info, ArgumentInfo)]
    given: dict[str, list[str]] = {}
    left = iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            given.setdefault("", []).append(word)
        elif option in options:
            name = options[option]
            if parameters[name][1] is not bool:
                value = value if equals else next(left, "")
                if not value or (value.startswith("-") and value != "-"):
                    raise _NotPlainError
            elif equals:
                raise _NotPlainError
            given.setdefault(name, []).append(value)
        else:
            raise _NotPlainError
    given |= _placed(given.pop("", []), arguments, parameters)
    return {name: _value(given.get(name), *parameters[name][1:]) for name in parameters}


def _declared(info: OptionInfo | ArgumentInfo) -> list[str]:
    """The names of an option, of which typer keeps the first one as its default."""
    names = [info.default, *(info.param_decls or ())] if isinstance(info, OptionInfo) else []
    return [name for name in names if isinstance(name, str) and name.startswith("--")]


def _annotated(command: Callable[..., object]) -> Iterator[tuple[str, Parameter]]:
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        yield name, parameter.replace(annotation=hints.get(name, Any))


def _parameter(parameter: Parameter) -> tuple[OptionInfo | ArgumentInfo, Any, object]:
    """(how typer knows a parameter, its type, its default)."""
    if get_origin(parameter.annotation) is not Annotated:
        raise _NotPlainError
    kind, *details = get_args(parameter.annotation)
    info = details[0]
    is_known = isinstance(info, ArgumentInfo) or (isinstance(info, OptionInfo) and len(_declared(info)) == 1)
    if not is_known or info.callback is not None or info.envvar is not None:
        raise _NotPlainError
    if get_origin(kind) in (Union, UnionType):
        kinds = [each for each in get_args(kind) if each is not NoneType]
        if len(kinds) != 1:
            raise _NotPlainError
        kind = kinds[0]
    return info, kind, parameter.default


def _placed(words: list[str], arguments: list[str], parameters: dict[str, Any]) -> dict[str, list[str]]:
    """The arguments in their places: one that takes many takes what the others leave."""
    if not words:
        return {}
    many = [name for name in arguments if get_origin(parameters[name][1]) is list]
    if len(many) > 1 or (len(words) < len(arguments) if many else len(words) > len(arguments)):
        raise _NotPlainError
    spare = len(words) - len(arguments) + 1
    placed: dict[str, list[str]] = {}
    for name in arguments[: len(words)]:
        taken = spare if name in many else 1
        placed[name], words = words[:taken], words[taken:]
    return placed


def _value(given: list[str] | None, kind: Any, default: object) -> object:
    """The value of a parameter for the words that were given for it."""
    if given is None:
        if default is Parameter.empty:
            raise _NotPlainError
        return default
    if get_origin(kind) is list:
        return [_converted(word, get_args(kind)[0]) for word in given]
    if len(given) > 1:
        raise _NotPlainError
    return True if kind is bool else _converted(given[0], kind)


def _converted(word: str, kind: Any) -> object:
    if kind in (str, Path) and word:
        return kind(word)
    if (kind is int and _WHOLE.fullmatch(word)) or (kind is float and _REAL.fullmatch(word)):
        return kind(word)
    if isinstance(kind, EnumMeta):
        members: list[Any] = [member for member in kind if getattr(member, "value", None) == word]
        if members:
            return members[0]
    if get_origin(kind) is Literal and word in get_args(kind):
        return word
    raise _NotPlainError
