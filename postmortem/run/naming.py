"""From a log's own column names to the canonical ones."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from postmortem.run.columns import CANONICAL, EPOCH_ALIASES, FAMILIES, KEYS, STEP_ALIASES, describe
from postmortem.run.loss_names import LossName, evaluation_losses, loss_name, train_losses
from postmortem.text import plain

NO_NAMES: Mapping[str, str] = MappingProxyType({})
_SEPARATORS = re.compile(r"[\s\-.]+")
_PREFIXES = re.compile(
    r"^(?:(?:train|training|trainer|metrics?|samples|optim|optimizer|actor|perf|stats|data|logs?)/|train(?:ing)?_)+"
)
_SUFFIXES = re.compile(r"(?:[/_](?:step|train))+$")
_VAGUE = frozenset(("time", "norm", "scale", "it", "batch", "shard", "dataset"))
"""Short names that mean something only where they stand by themselves: `train/time` is no time of day."""
_WELL_KNOWN_PARTS = frozenset(("lm", "ce", "nll", "ctc", "crossentropy", "language"))
"""Losses that many logs have as their only one; of any other, a note says that it was taken for the loss."""


@dataclass(frozen=True)
class Names:
    """`logged_as` maps canonical name → the log's own name, for every column with a known meaning; `unknown` are the
    others, unchanged. `smoothed` are canonical names of columns that the log itself smoothed. `steps` are all columns
    that may count steps, best first, and `epoch` is the one that counts epochs. `losses` are the parts of a train loss
    whose whole has no name in the log."""

    logged_as: Mapping[str, str]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    smoothed: frozenset[str] = frozenset()
    steps: tuple[str, ...] = ()
    epoch: str | None = None
    losses: tuple[str, ...] = ()

    def noting(self, *notes: str) -> Names:
        """The same names with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def reading(self, canonical: str, name: str, *notes: str) -> Names:
        """The same names with `canonical` read from the column `name`, and notes on it."""
        before = self.logged_as.get(canonical)
        freed = () if before in (None, name) else (before,)
        unknown = tuple(n for n in (*self.unknown, *freed) if n != name)
        return replace(
            self, logged_as={**self.logged_as, canonical: name}, unknown=unknown, notes=(*self.notes, *notes)
        )


def normal(name: str) -> str:
    """The form in which names are compared: lower case, one underscore instead of spaces, dots and hyphens."""
    return _SEPARATORS.sub("_", name.strip().lower())


_ALIASES: Mapping[str, tuple[str, ...]] = {
    "step": tuple(normal(alias) for alias in STEP_ALIASES),
    **{c.name: tuple(normal(alias) for alias in c.aliases) for c in CANONICAL.values() if c.family is None},
}
_ALL_ALIASES = frozenset(form for canonical, aliases in _ALIASES.items() for form in (normal(canonical), *aliases))
_PATTERNS = {c.name: re.compile(c.pattern) for c in CANONICAL.values() if c.pattern}
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


def bare(name: str) -> str:
    """`normal(name)` without what tools put around a name: `train/`, `metrics/`, `/step`, or the name once more."""
    form = normal(name)
    head, _, tail = _PREFIXES.sub("", form).rpartition("/")
    short = tail if head in ("", tail) else f"{head}/{tail}"
    if short not in _ALL_ALIASES:
        short = _SUFFIXES.sub("", short)
    return form if short in _VAGUE else short


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
    choices = _choices([name for name in names if name not in used])
    losses = [loss for name in names if _member(name) == "" and (loss := loss_name(name)) is not None]
    parts = _add_losses(choices, losses, used)
    steps = tuple(dict.fromkeys([*filter(None, [logged_as.get("step")]), *choices["step"]]))
    for canonical, candidates in choices.items():
        columns = [name for name in dict.fromkeys(candidates) if name not in used]
        if canonical not in logged_as and len(columns) > 1 and canonical != "step":
            notes.append(
                f"{file}: {canonical} is read from column {plain(columns[0], 60)}, not {name_list(columns[1:])}"
            )
        assign((canonical, name) for name in columns[:1])
    loss = next((loss for loss in losses if loss.name == logged_as.get("loss")), None)
    if loss is not None and loss.name in parts and "total" not in loss.words and not loss.part <= _WELL_KNOWN_PARTS:
        notes.append(f"{file}: loss is read from column {plain(loss.name, 60)}, the only train loss by its name")
    smoothed = frozenset({"loss"} if loss is not None and loss.smoothed else ())
    if loss is not None and loss.smoothed:
        notes.append(
            f"{file}: loss is read from column {plain(loss.name, 60)}, which is smoothed, by its name: a spike stands "
            "lower and longer in it than it was"
        )
    members = sorted((member, name) for name in names if name not in used and (member := _member(name)))
    assign(members)
    epoch = next((n for n in names if bare(n) in EPOCH_ALIASES and "step" not in normal(n) and n not in used), None)
    unknown = tuple(name for name in names if name not in used)
    unresolved = () if "loss" in logged_as else parts
    return Names(logged_as, unknown, tuple(notes), smoothed, steps, epoch, unresolved)


def _choices(names: Sequence[str]) -> dict[str, list[str]]:
    """Canonical column → the names that may mean it, best first: by alias, by alias without what tools put around a
    name, and by pattern. A name that is an alias of another column means that one."""
    by_normal: dict[str, list[str]] = {}
    by_bare: dict[str, list[str]] = {}
    others: list[tuple[str, str, str]] = []
    for name in names:
        form, short = normal(name), bare(name)
        by_normal.setdefault(form, []).append(name)
        if form not in _ALL_ALIASES:
            by_bare.setdefault(short, []).append(name)
            others.append((form, short, name))
    others.sort(key=lambda forms: (len(forms[0]), forms[0]))  # group 2 goes before group 10
    choices: dict[str, list[str]] = {}
    for canonical, aliases in _ALIASES.items():
        forms = (normal(canonical), *aliases)
        choices[canonical] = [name for by in (by_normal, by_bare) for form in forms for name in by.get(form, ())]
        if (pattern := _PATTERNS.get(canonical)) is not None:
            choices[canonical] += [
                name for form, short, name in others if pattern.fullmatch(form) or pattern.fullmatch(short)
            ]
    return choices


def _add_losses(choices: dict[str, list[str]], losses: Sequence[LossName], used: Container[str]) -> tuple[str, ...]:
    """Append what words tell to the choices of the losses; the parts of a train loss whose whole has no name."""
    train = train_losses([loss for loss in losses if loss.name not in used])
    parts = tuple(loss.name for loss in train if loss.part)
    if not choices["loss"] or not parts:
        twice = [loss for loss in losses if loss.part and loss.part <= _WELL_KNOWN_PARTS and not loss.evaluation]
        choices["loss"] += [loss.name for loss in train if not loss.part or len(parts) == 1]
        choices["loss"] += [loss.name for loss in twice] if choices["loss"] else []
    choices["eval_loss"] += [loss.name for loss in evaluation_losses(losses)]
    return parts


def _member(name: str) -> str:
    """The canonical spelling of a family member, whatever the case and separators of its prefix; "" for other names."""
    head, slash, tail = name.partition("/")
    if normal(tail).startswith(normal(head)):
        return ""  # the name twice, as in grad-norm/grad-norm
    if describe(name) is not None and name not in _SINGLE:
        return name
    prefix = normal(head) + "/"
    return prefix + tail if slash and tail and prefix in FAMILIES else ""
