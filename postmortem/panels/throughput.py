"""Panel 13, throughput and ranks: whether steps were slow, and whether a single rank departed."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    departure_figures,
    departure_text,
    finite_departure,
    moved_columns,
    unclear_text,
)
from postmortem.text import count


def _measure(case: Case) -> list[Observation]:
    observations: list[Observation] = []
    departed, names = moved_columns(case, case.family("loss/rank"), sign=1)
    ranks = len(names)
    if ranks >= 2 and departed:
        first = departed[0]
        slug = "ranks.one" if len(departed) == 1 else "ranks.several"
        verb = "departs" if len(departed) == 1 else "depart"
        text = f"{len(departed)} of {count(ranks, 'rank')} {verb}, the first is {first.column}"
        observations.append(Observation(slug, text, first.column, first.first_step))
    time = finite_departure(case, "step_time_s", sign=1)
    if time is not None:
        slow = time.moved and time.ratio >= 2
        unclear = not time.moved and not time.flat
        slug = "throughput.slow" if slow else "throughput.unclear" if unclear else "throughput.flat"
        text, figures = unclear_text(time) if unclear else departure_text(time), departure_figures(time)
        observations.append(
            Observation(slug, text, "step_time_s", time.step, figures, moved=slow or (unclear and time.beyond > 1))
        )
    return observations


PANEL = Panel(
    13,
    "throughput",
    "Throughput and ranks",
    ("step_time_s", "tokens_per_s", "loss/rank*"),
    _measure,
    "whether a node hung or a single rank departed: log step_time_s, and loss per rank",
    observes=(
        "ranks.one",
        "ranks.several",
        "throughput.slow",
        "throughput.flat",
        "throughput.unclear",
        "throughput.nonfinite",
    ),
    nonfinite="throughput.nonfinite",
)
