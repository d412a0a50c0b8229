"""modded-nanogpt: `step:100/1750 train_loss:4.7039 train_time:13238ms step_avg:147.09ms`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="modded-nanogpt",
    keys=frozenset(("step", "train_loss", "step_avg_ms")),
    limits=("no gradient norm and no rate are printed",),
)
