"""Panel 10, logits: whether attention logits, output logits, attention entropy or log Z moved."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    column_names,
    departure_figures,
    departure_text,
    finite_departure,
    moved_columns,
    unclear,
    unclear_text,
)


def _measure(case: Case) -> list[Observation]:
    names = ("max_attention_logit", "max_output_logit", "log_z", *case.family("attention_entropy/"))
    moved, columns = moved_columns(case, names)
    if not columns:
        return []
    if not moved:
        if (large := unclear(*(finite_departure(case, name) for name in columns))) is not None:
            figures = departure_figures(large)
            return [Observation("logits.unclear", unclear_text(large), large.column, large.step, figures)]
        text = f"{column_names(columns)} did not move"
        return [Observation("logits.flat", text, columns[0], case.onset, moved=False)]
    first = moved[0]
    return [
        Observation(
            "logits.moved",
            departure_text(first),
            first.column,
            first.first_step,
            departure_figures(first),
        )
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
        "logits.unclear",
        "logits.moved",
        "logits.nonfinite",
    ),
    nonfinite="logits.nonfinite",
)
