"""From a log's own column names to the canonical ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from postmortem.run.columns import CANONICAL, FAMILIES, KEYS, STEP_ALIASES, describe
from postmortem.text import plain

NO_NAMES: Mapping[str, str] = MappingProxyType({})
_SEPARATORS = re.compile(r"[\s\-.]+")


@dataclass(frozen=True)
class Names:
    """`own` maps canonical name → own name, for every column that has a meaning; `unknown` are the rest, kept as is."""

    own: Mapping[str, str]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def normal(name: str) -> str:
    """The form in which names are compared: lower case, one underscore for spaces, dots and hyphens."""
    return _SEPARATORS.sub("_", name.strip().lower())


_ALIASES: Mapping[str, tuple[str, ...]] = {
    "step": tuple(normal(alias) for alias in STEP_ALIASES),
    **{c.name: tuple(normal(alias) for alias in c.aliases) for c in CANONICAL.values() if c.family is None},
}
STEP_NAMES = frozenset(_ALIASES["step"]) | {"step"}
_SINGLE = frozenset(c.name for c in CANONICAL.values() if c.family is None)
_LABELS = frozenset(
    alias for c in CANONICAL.values() if c.label for alias in (c.name, *(normal(other) for other in c.aliases))
)


def is_label(own: str) -> bool:
    """Whether a column of this name holds text or lists, even where its text looks like numbers."""
    return normal(own) in _LABELS


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Names for a message, harmless and cut: `a, b, c and 7 more`."""
    shown = [plain(name, 60) or "(no name)" for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def assign(
    names: Sequence[str],
    declared: Mapping[str, str],
    wanted: Mapping[str, str],
    file: str,
    of_format: Mapping[str, str] = NO_NAMES,
) -> Names:
    """Give each canonical column one of the log's own `names`.

    Precedence: `wanted` (canonical → own, from --map), `declared` (own → canonical, from run.json), `of_format` (own →
    canonical, from the log's source, the first of two names for one meaning), the exact canonical name, then the known
    aliases in their order of preference. A column serves one meaning only, and a name that is not there is left out.
    """
    own: dict[str, str] = {}
    notes: list[str] = []
    for canonical, name in wanted.items():
        if name in names:
            own[canonical] = name
    for name, canonical in declared.items():
        if name in names and canonical not in own:
            own[canonical] = name
    taken = set(own.values())
    for name, canonical in of_format.items():
        if name in names and canonical not in own and name not in taken:
            own[canonical] = name
            taken.add(name)
    for name in names:
        if (name in KEYS or name in _SINGLE) and name not in own and name not in taken:
            own[name] = name
            taken.add(name)
    by_normal: dict[str, list[str]] = {}
    for name in names:
        by_normal.setdefault(normal(name), []).append(name)
    for canonical, aliases in _ALIASES.items():
        forms = (normal(canonical), *aliases)
        found = [name for form in dict.fromkeys(forms) for name in by_normal.get(form, ()) if name not in taken]
        if canonical not in own and found:
            own[canonical] = found[0]
            taken.add(found[0])
            if len(found) > 1:
                notes.append(f"{file}: {canonical} is read from column {plain(found[0], 60)}, not {listing(found[1:])}")
    for member, name in sorted((_member(name), name) for name in names if name not in taken):
        if member and member not in own:
            own[member] = name
            taken.add(name)
    return Names(own, tuple(name for name in names if name not in taken), tuple(notes))


def _member(name: str) -> str:
    """The canonical spelling of a family member, whatever the case and separators of its prefix; "" for other names."""
    if describe(name) is not None and name not in _SINGLE:
        return name
    head, slash, tail = name.partition("/")
    prefix = normal(head) + "/"
    return prefix + tail if slash and tail and prefix in FAMILIES else ""
