"""llm.c's own file main.log: `s:10 trl:3.2821 lr:0.000600 norm:0.35`, and `tel:` for the evaluation."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="llm.c (main.log)",
    keys=frozenset(("s", "trl")),
    columns={"s": "step", "trl": "loss", "tel": "eval_loss", "norm": "grad_norm"},
    keywords=(
        b"trl:",
        b"tel:",
    ),
)
