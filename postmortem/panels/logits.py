"""Panel 10, logits: attention and output, entropy and log Z."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import compared, departed, figures


def _measure(case: Case) -> list[Observation]:
    names = ("max_attention_logit", "max_output_logit", "log_z", *case.family("attention_entropy/"))
    moved, count = departed(case, names)
    if not count:
        return []
    if not moved:
        return [Observation("logits.flat", f"none of {count} columns moved", step=case.onset, moved=False)]
    first = moved[0]
    return [
        Observation("logits.moved", f"{first.column} {compared(first)}", first.column, first.first_step, figures(first))
    ]


PANEL = Panel(
    10,
    "logits",
    "Logits",
    ("max_attention_logit", "max_output_logit", "log_z", "attention_entropy/*"),
    _measure,
    "whether attention saturated or log Z drifted: log max_attention_logit, attention_entropy/<layer> and log_z",
    observes=(
        "logits.flat",
        "logits.moved",
    ),
)
