"""verl: `step:1 - actor/pg_loss:0.0 - actor/grad_norm:0.0097 - actor/lr:3e-05 - critic/score/mean:0.0`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="verl",
    keys=frozenset(("step", "actor/pg_loss")),
    columns={"actor/grad_norm": "grad_norm", "actor/lr": "lr"},
    limits=("the loss of a policy is near 0 and signed: its ratios mean nothing",),
)
