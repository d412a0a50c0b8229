"""Writes what a constant factor or distance between two runs says, and what differs between their models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from postmortem.diff.level import signed
from postmortem.diff.model import ColumnDiff, ModelFact, Relation, RunSummary
from postmortem.text import count, listed, number, plain

ALIKE = 1e-3  # two factors are the same, and a factor is a whole number, within this share
_LOSSES = ("loss", "eval_loss")
_SHOWN = 3  # columns that a sentence names, and parts that it lists


def loss_lines(
    relations: Sequence[Relation], columns: Sequence[ColumnDiff], a: RunSummary, b: RunSummary
) -> tuple[str, ...]:
    """How the loss of b follows from that of a, and what this says; () where it does not."""
    group = next((group for group in _groups(relations) if group[0].column in _LOSSES), ())
    if not group:
        return ()
    rate = next((column for column in columns if column.name == "lr"), None)
    same_rate = rate is not None and not rate.differing
    at_rate = " at the same learning rate" if same_rate else ""
    names = {relation.column for relation in group}
    norm = next((column for column in columns if column.name == "grad_norm"), None)
    reading = ""
    if group[0].form == "factor" and "grad_norm" in names and same_rate:
        reading = f": this is a scale, not another training; {_missing_division(group[0])}"
    elif group[0].form == "factor" and norm is not None and not norm.differing:
        reading = "; grad_norm is the same in both: only the logged figure is scaled"
    return (f"{_relation(group, a, b)}{at_rate}{reading}",)


def other_lines(relations: Sequence[Relation], a: RunSummary, b: RunSummary) -> tuple[str, ...]:
    """The relations of columns that do not go with the loss."""
    return tuple(_relation(group, a, b) for group in _groups(relations) if group[0].column not in _LOSSES)


def model_line(models: Sequence[ModelFact]) -> tuple[str, ...]:
    """What shows that the models, or the runs before their first update, are not the same; () where nothing does."""
    if not models:
        return ()
    parts = [f"{fact.what} {_fact(fact.a)} in a, {_fact(fact.b)} in b" for fact in models]
    if all(fact.what.startswith("loss") for fact in models):
        why = "before the first update, so the model, the vocabulary, the data or the scale of the loss is another"
        return (f"the runs differ {why}: {parts[0]}",)
    return (f"the models are not the same, so equal losses would not mean equal trainings: {'; '.join(parts)}",)


def _groups(relations: Sequence[Relation]) -> list[list[Relation]]:
    """Relations that are the same factor over the same steps, together; those of a loss come first."""
    groups: list[list[Relation]] = []
    for relation in sorted(relations, key=lambda relation: relation.column not in _LOSSES):
        group = next((group for group in groups if _is_the_same(group[0], relation)), None)
        if group is None:
            groups.append([relation])
        else:
            group.append(relation)
    return groups


def _is_the_same(first: Relation, second: Relation) -> bool:
    if {first.form, second.form} != {"factor"} or first.from_step != second.from_step:
        return False
    scatter = max(math.log(relation.high / relation.low) for relation in (first, second))
    return abs(math.log(first.value / second.value)) <= max(ALIKE, scatter)


def _relation(group: Sequence[Relation], a: RunSummary, b: RunSummary) -> str:
    first, several = group[0], len(group) > 1
    names = [plain(relation.column, 40) for relation in group]
    more = f" and {len(names) - _SHOWN} more columns" if len(names) > _SHOWN else ""
    named = ", ".join(names[:_SHOWN]) if more else listed(names)
    verb, that = ("are", "those") if several or more else ("is", "that")
    if first.form == "factor":
        figure, low, high = f"{first.value:#.4g} times {that}", f"{first.low:#.4g}", f"{first.high:#.4g}"
    else:
        side = "above" if first.value > 0 else "below"
        figure, low, high = f"{number(abs(first.value))} nats {side} {that}", signed(first.low), signed(first.high)
    scatter = "" if low == high else f", nine rows in ten from {low} to {high}"
    return f"{named}{more} of b {verb} {figure} of a {_where(first, a, b)} ({count(first.rows, 'row')}{scatter})"


def _where(relation: Relation, a: RunSummary, b: RunSummary) -> str:
    if relation.before is None:
        return "throughout"
    resumed = [x for x, run in (("a", a), ("b", b)) if any(r.step == relation.from_step for r in run.rewinds)]
    event = f", where {' and '.join(resumed)} resumed" if resumed else ""
    factor = relation.form == "factor"
    same = abs(math.log(relation.before)) < ALIKE if factor else relation.before == 0
    before = "equal" if same else f"{relation.before:#.4g} times" if factor else f"{signed(relation.before)} nats"
    return f"from step {relation.from_step} on{event}, and {before} before"


def _missing_division(relation: Relation) -> str:
    """What a scale of loss and gradient points to."""
    larger, factor = ("b", relation.value) if relation.value > 1 else ("a", 1 / relation.value)
    if factor > 1.5 and abs(factor / round(factor) - 1) <= max(ALIKE, math.log(relation.high / relation.low) / 2):
        return f"{larger} adds up {round(factor)} parts (accumulation steps, processes) that the other run averages"
    return "the two divide by different numbers (of items, accumulation steps, processes)"


def _fact(value: object) -> str:
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        names = [plain(name, 40) for name in value]
        return (", ".join(names[:_SHOWN]) or "none") + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")
    return plain(value, 40)
