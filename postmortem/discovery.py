"""Finds the parts that are one file each: sources, detectors, panels, causes, interventions and renderers.

The file is in the room's own folder; a source, detector, panel or cause may also come from another distribution, which
names its object as an entry point. A part that cannot be used is an error that names its file.


    [project.entry-points."postmortem.detectors"]
    reward = "my_package.reward:DETECTOR"
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from postmortem.errors import BrokenPlugin
from postmortem.text import plain

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

T = TypeVar("T")

_PLUGIN_PARTS: dict[int, str] = {}
"""id of a part that another distribution adds → that distribution. Parts live as long as the process."""

_PLUGIN_MODULES: dict[str, str] = {}
"""Top-level module of such a part → its distribution."""


@dataclass(frozen=True)
class _Discovered(Generic[T]):
    """A part, the place where it comes from, and the distribution that adds it; "" for this package."""

    part: T
    where: str
    distribution: str = ""


def discover(
    package: ModuleType, attribute: str, kind: type[T], *, group: str | None = None, unique: Sequence[str] = ()
) -> tuple[T, ...]:
    """The `attribute` of every public module of `package`, in order of module name, then the entry points of `group`.

    Modules whose name begins with `_` are helpers, without a part. `unique` are attributes that no two parts may share;
    of a tuple, no single item. Entry points are in order of their distribution's name and their own.

    Raises:
        TypeError: a module has no such attribute or something else under its name, or the parts of two modules share
            what is unique: a mistake in this package.
        BrokenPlugin: an entry point cannot be loaded, is something else, or shares with a part what is unique.
    """
    parts = [*_in_package(package, attribute, kind), *([] if group is None else _in_group(group, kind))]
    for name in unique:
        owners: dict[object, _Discovered[T]] = {}
        for candidate in parts:
            attribute_value = getattr(candidate.part, name)
            for value in attribute_value if isinstance(attribute_value, tuple) else (attribute_value,):
                first = owners.setdefault(value, candidate)
                if first is not candidate:
                    _raise_duplicate(f"{kind.__name__} {name} {plain(value, 60)!r}", first, candidate)
    return tuple(candidate.part for candidate in parts)


def _in_package(package: ModuleType, attribute: str, kind: type[T]) -> Iterator[_Discovered[T]]:
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        value = getattr(module, attribute, None)
        if not isinstance(value, kind):
            raise TypeError(
                f"{module.__file__}: expected {attribute} = {kind.__name__}(…), found {type(value).__name__}"
            )
        yield _Discovered(value, str(module.__file__))


@cache
def _installed() -> EntryPoints | None:
    """All entry points of all distributions: the search costs the same for one group as for all. None where no file of
    entry points names one of our groups, which the files themselves show in a tenth of the time."""
    if not any(map(_may_add_parts, sys.path)):
        return None
    from importlib.metadata import entry_points

    return cast("EntryPoints", entry_points())  # before Python 3.12, another class with the same `select`


def _may_add_parts(entry: str) -> bool:
    """Whether an entry of sys.path may contain a distribution that adds parts; any archive may."""
    place = Path(entry or ".")
    try:
        files = [*place.glob("*.dist-info/entry_points.txt"), *place.glob("*.egg-info/entry_points.txt")]
        return any(b"[postmortem." in file.read_bytes() for file in files) or place.is_file()
    except OSError:
        return True


def _in_group(group: str, kind: type[T]) -> Iterator[_Discovered[T]]:
    installed = _installed()
    named = () if installed is None else installed.select(group=group)
    for entry in sorted(named, key=lambda entry: (_owner(entry), entry.name)):
        name = f"entry point {plain(entry.name, 60)} = {plain(entry.value, 120)!r} of group {group}"
        try:
            value = entry.load()
        except (Exception, SystemExit) as error:
            problem = f"cannot be loaded ({type(error).__name__}: {plain(error, 300)})"
            raise _broken(entry, f"{name} {problem}, in {_file(entry)}") from error
        if not isinstance(value, kind):
            problem = f"is a {type(value).__name__} where a {kind.__name__} is expected"
            raise _broken(entry, f"{name} {problem}, in {_file(entry)}")
        _PLUGIN_PARTS[id(value)] = _PLUGIN_MODULES[entry.module.partition(".")[0]] = _owner(entry)
        yield _Discovered(value, f"{_file(entry)} ({_titled(entry)})", _owner(entry))


def mistake(part: object, message: str) -> Exception:
    """The error to raise for a mistake of `part`: BrokenPlugin where a plug-in adds it, TypeError where this package
    does."""
    plugin = _PLUGIN_PARTS.get(id(part))
    return TypeError(message) if plugin is None else BrokenPlugin(f"plug-in {plugin}: {message}. {_advice(plugin)}")


def plugin_error(error: BaseException) -> BrokenPlugin | None:
    """`error` as that of the plug-in whose code raised it; None where code of this package did."""
    frames = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    inner = next((name for name in reversed(frames) if name in _PLUGIN_MODULES or name == "postmortem"), "")
    if inner not in _PLUGIN_MODULES:
        return None
    plugin = _PLUGIN_MODULES[inner]
    return BrokenPlugin(f"plug-in {plugin}: {type(error).__name__}: {plain(error, 300)}. {_advice(plugin)}")


def _raise_duplicate(name: str, first: _Discovered[T], second: _Discovered[T]) -> None:
    message = f"{name} appears twice: in {first.where} and in {second.where}"
    plugin = second.distribution or first.distribution
    raise BrokenPlugin(f"{message}. {_advice(plugin)}") if plugin else TypeError(message)


def _broken(entry: EntryPoint, message: str) -> BrokenPlugin:
    return BrokenPlugin(f"plug-in {_titled(entry)}: {message}. {_advice(_owner(entry))}")


def _advice(distribution: str) -> str:
    return f"Update it, or remove it: pip uninstall {distribution}"


def _owner(entry: EntryPoint) -> str:
    return plain("(unknown)" if entry.dist is None else entry.dist.name, 100)


def _titled(entry: EntryPoint) -> str:
    return _owner(entry) if entry.dist is None else f"{_owner(entry)} {plain(entry.dist.version, 40)}"


def _file(entry: EntryPoint) -> str:
    """The file of the module that an entry point names, or else the module's name."""
    try:
        module = sys.modules.get(entry.module)
        spec = importlib.util.find_spec(entry.module) if module is None else module.__spec__
    except Exception:  # noqa: BLE001 - it imports the parent package, which may be broken
        spec = None
    return plain(entry.module if spec is None or spec.origin is None else spec.origin, 500)
