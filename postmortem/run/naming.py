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
    """`logged_as` maps canonical name → the log's own name, for every column with a known meaning; `unknown` are the
    others, unchanged. `smoothed` are canonical names of columns that the log itself smoothed."""

    logged_as: Mapping[str, str]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    smoothed: frozenset[str] = frozenset()


def normal(name: str) -> str:
    """The form in which names are compared: lower case, one underscore instead of spaces, dots and hyphens."""
    return _SEPARATORS.sub("_", name.strip().lower())


_ALIASES: Mapping[str, tuple[str, ...]] = {
    "step": tuple(normal(alias) for alias in STEP_ALIASES),
    **{c.name: tuple(normal(alias) for alias in c.aliases) for c in CANONICAL.values() if c.family is None},
}
STEP_NAMES = frozenset(_ALIASES["step"]) | {"step"}
_SINGLE = frozenset(c.name for c in CANONICAL.values() if c.family is None)
_LABELS = frozenset(
    alias for c in CANONICAL.values() if c.label for alias in (c.name, *(normal(name) for name in c.aliases))
)


def is_label(name: str) -> bool:
    """Whether a column of this name contains text or lists, even where its text looks like numbers."""
    return normal(name) in _LABELS


def name_list(names: Iterable[str], limit: int = 12) -> str:
    """Names for a message, harmless and shortened: `a, b, c and 7 more`."""
    harmless = [plain(name, 60) or "(no name)" for name in names]
    more = f" and {len(harmless) - limit} more" if len(harmless) > limit else ""
    return ", ".join(harmless[:limit]) + more


def assign_columns(
    names: Sequence[str],
    declared: Mapping[str, str],
    mapping: Mapping[str, str],
    file: str,
    of_format: Mapping[str, str] = NO_NAMES,
) -> Names:
    """Assign to each canonical column one of the log's own `names`.

    Precedence: `mapping` (canonical → own, from --map), `declared` (own → canonical, from run.json), `of_format` (own →
    canonical, from the log's source, the first of two names for one meaning), the exact canonical name, then the known
    aliases in their order of preference. A column has one meaning only, and a name that is not in the log is left out.
    """
    logged = frozenset(names)
    named = [*mapping.items(), *((canonical, name) for name, canonical in declared.items())]
    logged_as: dict[str, str] = {}
    for canonical, name in named:
        if name in logged:
            logged_as.setdefault(canonical, name)
    used = set(logged_as.values())

    def assign(pairs: Iterable[tuple[str, str]]) -> None:
        for canonical, name in pairs:
            if name in logged and name not in used and canonical not in logged_as:
                logged_as[canonical] = name
                used.add(name)

    assign((canonical, name) for name, canonical in of_format.items())
    assign((name, name) for name in names if name in KEYS or name in _SINGLE)
    notes: list[str] = []
    by_normal: dict[str, list[str]] = {}
    for name in names:
        by_normal.setdefault(normal(name), []).append(name)
    for canonical, aliases in _ALIASES.items():
        forms = (normal(canonical), *aliases)
        columns = [name for form in dict.fromkeys(forms) for name in by_normal.get(form, ()) if name not in used]
        if canonical not in logged_as and len(columns) > 1:
            notes.append(
                f"{file}: {canonical} is read from column {plain(columns[0], 60)}, not {name_list(columns[1:])}"
            )
        assign((canonical, name) for name in columns[:1])
    members = sorted((_member(name), name) for name in names if name not in used)
    assign((member, name) for member, name in members if member)
    return Names(logged_as, tuple(name for name in names if name not in used), tuple(notes))


def _member(name: str) -> str:
    """The canonical spelling of a family member, whatever the case and separators of its prefix; "" for other names."""
    if describe(name) is not None and name not in _SINGLE:
        return name
    head, slash, tail = name.partition("/")
    prefix = normal(head) + "/"
    return prefix + tail if slash and tail and prefix in FAMILIES else ""
