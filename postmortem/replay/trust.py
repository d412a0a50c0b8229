"""Decides which program may be imported. A run names its program; that is code, and runs come from strangers."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path

from postmortem.errors import UsageError
from postmortem.program import ProgramFactory, resolve
from postmortem.text import plain

_OURS = "postmortem.lab.program:build"  # the lab's program is part of this package


def trusted_program(named: str | None, given: str | None, *, trust: bool) -> str:
    """The entry point to import: `given` on the command line, or else `named` by the run, if that is this package's own
    lab or if `trust` is given.

    Raises:
        UsageError: no program is named, or it must be trusted first; the message shows what would be imported.
    """
    if given is not None:
        return given
    if named is None:
        raise UsageError("the run names no program; name one with --program module:factory (see postmortem.program)")
    if trust or named == _OURS:
        return named
    raise UsageError(
        f"the run names the program {plain(named)!r}, which would be imported {import_location(named)}. "
        f"Import and run it with --trust, or name your own with --program module:factory"
    )


def import_notice(named: str | None, given: str | None, *, trust: bool) -> str:
    """Which program will be imported from where, to print before it happens; "" for this package's own lab. Raises
    UsageError as `trusted_program` does."""
    program_name = trusted_program(named, given, trust=trust)
    return "" if program_name == _OURS else f"{plain(program_name)} {import_location(program_name)}"


def import_location(program_name: str) -> str:
    """From where a program would be imported, found without importing anything."""
    module = program_name.partition(":")[0]
    folders: list[str] | None = module_search_path()
    spec = None
    dotted = ""
    for part in module.split("."):
        dotted = f"{dotted}.{part}" if dotted else part
        spec = importlib.machinery.PathFinder.find_spec(part, folders)  # a dotted name would import the parents
        if spec is None:
            return f"(no module {plain(dotted, 80)!r} is found from here)"
        folders = list(spec.submodule_search_locations or [])
    return f"from {plain(spec.origin, 1000)}" if spec is not None and spec.origin else "from a package of no file"


def program_source(program_name: str) -> Path | None:
    """The file from which a program would be imported, found without importing anything."""
    origin = import_location(program_name).removeprefix("from ")
    return Path(origin) if Path(origin).is_file() else None


def module_search_path() -> list[str]:
    """Folders in which modules are searched: this directory first, as with `python -m`."""
    working_directory = str(Path.cwd())
    return [working_directory, *(folder for folder in sys.path if folder not in ("", working_directory))]


def load_factory(program_name: str) -> ProgramFactory:
    """The factory, imported from `module_search_path`. Raises UsageError if the import fails for any reason."""
    if program_name != _OURS:  # for our own program, nothing of this directory is imported
        sys.path[:] = module_search_path()
    try:
        return resolve(program_name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"program {plain(program_name)!r} no longer imports: {type(error).__name__}: {plain(error, 300)}. "
            f"Fix it, or name another with --program (looked in {plain(Path.cwd(), 300)} first)"
        ) from error
