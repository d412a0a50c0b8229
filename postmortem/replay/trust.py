"""Which program may be imported. A run names one; that is code, and runs come from strangers."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path

from postmortem.errors import UsageError
from postmortem.program import ProgramFactory, resolve
from postmortem.text import plain

_OURS = "postmortem.lab.program:build"  # the lab's program is part of this package


def trusted_program(named: str | None, given: str | None, *, trust: bool) -> str:
    """The entry point to import: `given` on the command line, or `named` by the run where that is this package's own
    lab, or `trust` is said.

    Raises:
        UsageError: there is none, or it must be trusted first; the message shows what would be imported.
    """
    if given is not None:
        return given
    if named is None:
        raise UsageError(
            "the run names no program; say which drives it: --program module:factory (see postmortem.program)"
        )
    if trust or named == _OURS:
        return named
    raise UsageError(
        f"the run names the program {plain(named)!r}, which would be imported {where_from(named)}. "
        f"Import and run it with --trust, or name your own with --program module:factory"
    )


def announced(named: str | None, given: str | None, *, trust: bool) -> str:
    """What is imported from where, to be said before it is; "" for this package's own lab. Raises as the above."""
    entry_point = trusted_program(named, given, trust=trust)
    return "" if entry_point == _OURS else f"{plain(entry_point)} {where_from(entry_point)}"


def where_from(entry_point: str) -> str:
    """Where a program would be imported from, found without importing any of it."""
    module = entry_point.partition(":")[0]
    folders: list[str] | None = search_path()
    spec = None
    at = ""
    for part in module.split("."):
        at = f"{at}.{part}" if at else part
        spec = importlib.machinery.PathFinder.find_spec(part, folders)  # a dotted name would ask for imported parents
        if spec is None:
            return f"(no module {plain(at, 80)!r} is found from here)"
        folders = list(spec.submodule_search_locations or [])
    return f"from {plain(spec.origin, 1000)}" if spec is not None and spec.origin else "from a package of no file"


def source_of(entry_point: str) -> Path | None:
    """The file that a program would be imported from, found without importing any of it."""
    origin = where_from(entry_point).removeprefix("from ")
    return Path(origin) if Path(origin).is_file() else None


def search_path() -> list[str]:
    """Where modules are looked for: this directory first, as with `python -m`."""
    here = str(Path.cwd())
    return [here, *(folder for folder in sys.path if folder not in ("", here))]


def factory_of(entry_point: str) -> ProgramFactory:
    """The factory, imported from `search_path`. Raises UsageError, also where importing it fails by itself."""
    if entry_point != _OURS:  # where nothing foreign is asked for, nothing of this directory is imported
        sys.path[:] = search_path()
    try:
        return resolve(entry_point)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"program {plain(entry_point)!r} no longer imports: {type(error).__name__}: {plain(error, 300)}. "
            f"Mend it, or name another with --program (looked in {plain(Path.cwd(), 300)} first)"
        ) from error
