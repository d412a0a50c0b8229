"""A new source, detector, panel or cause is one new file: discovery finds it, and fails loudly where it is broken."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def discover(package: ModuleType, attribute: str, kind: type[T]) -> tuple[T, ...]:
    """Every public module's `attribute` in `package`, in order of module name.

    Modules whose name begins with `_` are helpers and hold nothing to discover. A module that lacks the attribute, or
    holds something else under its name, is a mistake in that file and raises TypeError naming it.
    """
    found: list[T] = []
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        value = getattr(module, attribute, None)
        if not isinstance(value, kind):
            raise TypeError(
                f"{module.__file__}: expected {attribute} = {kind.__name__}(…), found {type(value).__name__}"
            )
        found.append(value)
    return tuple(found)
