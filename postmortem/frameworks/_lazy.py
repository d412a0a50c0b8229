"""Names that a package imports when they are asked for: each needs torch or a framework, and the package needs none."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from postmortem.errors import require


def lazily(package: str, name: str, modules: Mapping[str, str]) -> Any:
    """`name` of `package`, out of the module that `modules` names for it.

    Raises:
        AttributeError: the package has no such name.
        MissingExtra: torch is not installed.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    require(f"{package}.{name}", "train", "torch", "xxhash")
    return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
