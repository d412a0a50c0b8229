"""Megatron-LM and Megatron-DeepSpeed: ` iteration 10/ 500000 | consumed samples: 5120 | … | lm loss: 1.05E+01 |`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="Megatron-LM",
    keys=frozenset(("iteration", "consumed samples")),
    columns={
        "lm loss": "loss",
        "lm-loss": "loss",
        "learning rate": "lr",
        "grad norm": "grad_norm",
        "global batch size": "batch_size",
    },
    keywords=(
        b"lm loss",
        b"consumed samples",
    ),
    limits=("a loss that is NaN or not positive is left out of its line",),
)
