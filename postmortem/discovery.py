"""A new source, detector, panel or cause is one new file: discovery finds it, and fails loudly where it is broken.

The file lies in this package's own folder, or in another distribution that names its object as an entry point:

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

_ADDED: dict[int, str] = {}
"""id of a part that another distribution adds → that distribution. Parts live as long as the process."""

_MODULES: dict[str, str] = {}
"""Top-level module of such a part → its distribution."""


@dataclass(frozen=True)
class _Found(Generic[T]):
    """A part, the words that say where it comes from, and the distribution that adds it; "" for this package."""

    part: T
    where: str
    distribution: str = ""


def discover(
    package: ModuleType, attribute: str, kind: type[T], *, group: str | None = None, unique: Sequence[str] = ()
) -> tuple[T, ...]:
    """Every public module's `attribute` in `package`, in order of module name, then the entry points of `group`.

    Modules whose name begins with `_` are helpers and hold nothing to discover. `unique` are attributes of a part that
    no two parts may share, nor one item of them where they are tuples. Entry points come in order of their
    distribution's name and their own.

    Raises:
        TypeError: a module lacks the attribute or holds something else under its name, or two modules' parts share what
            is unique; a mistake in this package.
        BrokenPlugin: an entry point cannot be loaded, names something else, or a part that is there already.
    """
    found = [*_in_package(package, attribute, kind), *([] if group is None else _in_group(group, kind))]
    for name in unique:
        seen: dict[object, _Found[T]] = {}
        for one in found:
            held = getattr(one.part, name)
            for value in held if isinstance(held, tuple) else (held,):
                first = seen.setdefault(value, one)
                if first is not one:
                    _refuse_twin(f"{kind.__name__} {name} {plain(value, 60)!r}", first, one)
    return tuple(one.part for one in found)


def _in_package(package: ModuleType, attribute: str, kind: type[T]) -> Iterator[_Found[T]]:
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        value = getattr(module, attribute, None)
        if not isinstance(value, kind):
            raise TypeError(
                f"{module.__file__}: expected {attribute} = {kind.__name__}(…), found {type(value).__name__}"
            )
        yield _Found(value, str(module.__file__))


@cache
def _installed() -> EntryPoints | None:
    """All entry points of all distributions: looking for them costs the same for one group as for all. None where no
    file of entry points names any of our groups, which a look at the files tells in a tenth of the time."""
    if not any(map(_may_add_parts, sys.path)):
        return None
    from importlib.metadata import entry_points

    return cast("EntryPoints", entry_points())  # before Python 3.12 another class that selects alike


def _may_add_parts(entry: str) -> bool:
    """Whether an entry of sys.path holds a distribution that adds parts; an archive is not looked into, and may."""
    place = Path(entry or ".")
    try:
        files = [*place.glob("*.dist-info/entry_points.txt"), *place.glob("*.egg-info/entry_points.txt")]
        return any(b"[postmortem." in file.read_bytes() for file in files) or place.is_file()
    except OSError:
        return True


def _in_group(group: str, kind: type[T]) -> Iterator[_Found[T]]:
    installed = _installed()
    named = () if installed is None else installed.select(group=group)
    for entry in sorted(named, key=lambda entry: (_owner(entry), entry.name)):
        said = f"entry point {plain(entry.name, 60)} = {plain(entry.value, 120)!r} of group {group}"
        try:
            value = entry.load()
        except (Exception, SystemExit) as error:
            why = f"cannot be loaded ({type(error).__name__}: {plain(error, 300)})"
            raise _broken(entry, f"{said} {why}, in {_file(entry)}") from error
        if not isinstance(value, kind):
            why = f"names a {type(value).__name__} where a {kind.__name__} is expected"
            raise _broken(entry, f"{said} {why}, in {_file(entry)}")
        _ADDED[id(value)] = _MODULES[entry.module.partition(".")[0]] = _owner(entry)
        yield _Found(value, f"{_file(entry)} ({_titled(entry)})", _owner(entry))


def mistake(part: object, what: str) -> Exception:
    """The error to raise for `what` a part must not do: a plug-in's where one adds it, else one of this package."""
    added = _ADDED.get(id(part))
    return TypeError(what) if added is None else BrokenPlugin(f"plug-in {added}: {what}. {_way_out(added)}")


def culprit(error: BaseException) -> BrokenPlugin | None:
    """`error` as that of the plug-in whose code raised it; None where that was code of this package."""
    frames = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    inner = next((name for name in reversed(frames) if name in _MODULES or name == "postmortem"), "")
    if inner not in _MODULES:
        return None
    added = _MODULES[inner]
    return BrokenPlugin(f"plug-in {added}: {type(error).__name__}: {plain(error, 300)}. {_way_out(added)}")


def _refuse_twin(named: str, first: _Found[T], second: _Found[T]) -> None:
    what = f"{named} stands twice: in {first.where}"
    added = second.distribution or first.distribution
    if not added:
        raise TypeError(f"{what} and in {second.where}")
    raise BrokenPlugin(f"{what} and in {second.where}. {_way_out(added)}")


def _broken(entry: EntryPoint, what: str) -> BrokenPlugin:
    return BrokenPlugin(f"plug-in {_titled(entry)}: {what}. {_way_out(_owner(entry))}")


def _way_out(distribution: str) -> str:
    return f"Update it, or go on without it: pip uninstall {distribution}"


def _owner(entry: EntryPoint) -> str:
    return plain("(unknown)" if entry.dist is None else entry.dist.name, 100)


def _titled(entry: EntryPoint) -> str:
    return _owner(entry) if entry.dist is None else f"{_owner(entry)} {plain(entry.dist.version, 40)}"


def _file(entry: EntryPoint) -> str:
    """The file of the module that an entry point names, or else the module's name."""
    try:
        module = sys.modules.get(entry.module)
        spec = importlib.util.find_spec(entry.module) if module is None else module.__spec__
    except Exception:  # it looks into the parent package, which may be what is broken
        spec = None
    return plain(entry.module if spec is None or spec.origin is None else spec.origin, 500)
