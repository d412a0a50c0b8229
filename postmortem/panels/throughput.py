"""Panel 13, throughput and ranks: slow steps, and whether one rank departs alone."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import compared, departed, figures


def _measure(case: Case) -> list[Observation]:
    seen: list[Observation] = []
    ranks, count = departed(case, case.family("loss/rank"), sign=1)
    if count >= 2 and ranks:
        slug = "ranks.one" if len(ranks) == 1 else "ranks.several"
        seen.append(
            Observation(
                slug,
                f"{len(ranks)} of {count} ranks depart, first {ranks[0].column}",
                ranks[0].column,
                ranks[0].first_step,
            )
        )
    slow = case.departure("step_time_s", sign=1)
    if slow is not None:
        if slow.moved and slow.ratio >= 2:
            seen.append(
                Observation("throughput.slow", f"step time {compared(slow)}", "step_time_s", slow.step, figures(slow))
            )
        else:
            seen.append(
                Observation(
                    "throughput.flat",
                    f"step time {compared(slow)}",
                    "step_time_s",
                    slow.step,
                    figures(slow),
                    moved=False,
                )
            )
    return seen


PANEL = Panel(
    13,
    "throughput",
    "Throughput and ranks",
    ("step_time_s", "tokens_per_s", "loss/rank*"),
    _measure,
    "whether a node hung or one rank departed alone: log step_time_s, and loss per rank",
    observes=(
        "ranks.one",
        "ranks.several",
        "throughput.slow",
        "throughput.flat",
    ),
)
