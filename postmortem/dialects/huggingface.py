"""Hugging Face's Trainer as it prints: `{'loss': 2.31, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 0.1}`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="Hugging Face's Trainer",
    keys=frozenset(("loss", "learning_rate", "epoch")),
    limits=(
        "its loss is a mean over the steps since the line before (logging_steps)",
        "a loss that is NaN or infinite is left out of that mean, unless logging_nan_inf_filter is off",
    ),
)
