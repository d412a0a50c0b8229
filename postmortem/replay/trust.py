"""Decides which program may be imported. A run names its program; that is code, and runs come from strangers.

A program is looked up once, into a `NamedProgram`. That value is announced, and is carried to wherever it is imported:
nothing reads it again from the run, whose files may have been replaced since.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from postmortem.errors import UsageError
from postmortem.program import ProgramFactory, resolve
from postmortem.text import plain

_OURS = "postmortem.lab.program:build"  # the lab's program is part of this package


@dataclass(frozen=True)
class NamedProgram:
    """A program as it was found, without importing anything. name: module:factory. origin: the file of its module, ""
    if there is none. content: a hash of that file and of those of its parent packages, "" if there are none. missing:
    the module that was not found, or ""."""

    name: str
    origin: str = ""
    content: str = ""
    missing: str = ""

    @property
    def notice(self) -> str:
        """What will be imported from where, to print before it happens; "" for this package's own lab."""
        return "" if self.name == _OURS else f"{plain(self.name)} {self.location}"

    @property
    def location(self) -> str:
        """From where it would be imported, in words."""
        if self.missing:
            return f"(no module {plain(self.missing, 80)!r} is found from here)"
        return f"from {plain(self.origin, 1000)}" if self.origin else "from a package of no file"

    @property
    def file(self) -> Path | None:
        """The file of its module; None if there is none."""
        return Path(self.origin) if self.origin and Path(self.origin).is_file() else None


def trusted_program(named: str | None, given: str | None, *, trust: bool) -> NamedProgram:
    """The program to import: `given` on the command line, or else `named` by the run, if that is this package's own lab
    or if `trust` is given.

    Raises:
        UsageError: no program is named, or it must be trusted first; the message shows what would be imported.
    """
    if given is not None:
        return find_program(given)
    if named is None:
        raise UsageError("the run names no program; name one with --program module:factory (see postmortem.program)")
    program = find_program(named)
    if trust or named == _OURS:
        return program
    raise UsageError(
        f"the run names the program {plain(named)!r}, which would be imported {program.location}. "
        f"Import and run it with --trust, or name your own with --program module:factory"
    )


def find_program(name: str) -> NamedProgram:
    """The program `name`, looked up as an import from `module_search_path` would, without importing anything."""
    if name == _OURS:
        return NamedProgram(name)
    module = name.partition(":")[0]
    first, *rest = module.split(".")
    if not all((first, *rest)):
        return NamedProgram(name, missing=module)
    spec, dotted, files = _find_top_module(first), first, list[str]()
    for part in (*rest, ""):
        if spec is None:
            return NamedProgram(name, missing=dotted)
        files.append(spec.origin or "")
        if part:  # looked up alone: a dotted name would import the parents
            folders = list(spec.submodule_search_locations or [])
            spec, dotted = importlib.machinery.PathFinder.find_spec(part, folders), f"{dotted}.{part}"
    return NamedProgram(name, files[-1], _hash_of(files))


def _find_top_module(name: str) -> importlib.machinery.ModuleSpec | None:
    """What an import of `name` finds. It asks the hooks of editable installs and of test runners, too."""
    folders = module_search_path()
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec = None if find_spec is None else find_spec(name, folders)
        if spec is not None:
            return spec
    return None


def _hash_of(files: Sequence[str]) -> str:
    state, read = hashlib.sha256(), False
    for file in files:
        if Path(file).is_file():
            state.update(Path(file).read_bytes())
            read = True
    return state.hexdigest() if read else ""


def module_search_path() -> list[str]:
    """Folders in which modules are searched: this directory first, as with `python -m`."""
    working_directory = str(Path.cwd())
    return [working_directory, *(folder for folder in sys.path if folder not in ("", working_directory))]


def load_factory(program: NamedProgram, *, elsewhere: bool = False) -> ProgramFactory:
    """The factory of a program, imported from `module_search_path`. `elsewhere`: another process looked it up, maybe on
    another machine, where the same files may have other paths.

    Raises:
        UsageError: the import fails for any reason, or would import something else than what was looked up.
    """
    if program.name == _OURS:  # for our own program, nothing of this directory is imported
        return resolve(program.name)
    sys.path[:] = module_search_path()
    found_now = find_program(program.name)
    if program.missing or found_now.missing:
        raise UsageError(
            f"program {plain(program.name)!r}: no module named {plain(program.missing or found_now.missing, 80)!r} is "
            "found from here"
        )
    if found_now.content != program.content or not (elsewhere or _same_file(found_now.origin, program.origin)):
        raise UsageError(_changed_text(program, found_now.location))
    try:
        factory = resolve(program.name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"program {plain(program.name)!r} no longer imports: {type(error).__name__}: {plain(error, 300)}. "
            f"Fix it, or name another with --program (looked in {plain(Path.cwd(), 300)} first)"
        ) from error
    imported = sys.modules.get(program.name.partition(":")[0])
    if imported is None or not _same_file(_origin_of(imported), found_now.origin):
        where = "nowhere" if imported is None else f"from {plain(_origin_of(imported), 1000)}"
        raise UsageError(_changed_text(program, where))
    return factory


def _changed_text(program: NamedProgram, where: str) -> str:
    return (
        f"the program {plain(program.name)!r} is not what was announced: it was {program.location}, and is now another "
        f"file or another text, {where}. Start the command again"
    )


def _origin_of(module: ModuleType) -> str:
    spec = getattr(module, "__spec__", None)
    return (spec.origin if spec is not None else None) or getattr(module, "__file__", None) or ""


def _same_file(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b) if a and b else a == b
