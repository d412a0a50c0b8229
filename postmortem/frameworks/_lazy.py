"""Imports names of a package on first use: they need torch or a framework, but the package itself needs neither."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from postmortem.errors import require


def import_lazily(package: str, name: str, modules: Mapping[str, str]) -> Any:
    """Import `name` of `package` from the module that `modules` lists for it.

    Raises:
        AttributeError: the package has no such name.
        MissingExtra: torch is not installed.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    require(f"{package}.{name}", "train", "torch", "xxhash")
    return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
