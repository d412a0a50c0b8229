"""llm.c on its standard output: `step 97/19560 | loss 7.138680 (+nanz)| norm 0.9847 (+nanz)| lr 8.31e-05`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="llm.c",
    keys=frozenset(("step", "loss", "norm", "lr")),
    columns={"norm": "grad_norm"},
)
