"""nanochat: `step 00091/21400 (0.43%) | loss: 5.262545 | grad norm: 0.6417 | lrm: 1.00 | dt: 13899.62ms`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="nanochat",
    keys=frozenset(("step", "loss", "lrm", "dt_ms")),
    columns={"lrm": "lr", "tok/sec": "tokens_per_s"},
    limits=(
        "its loss is a running average: a spike stands lower and longer in it than it was",
        "lrm is a multiplier of the rates, and is read as the rate: its jumps are theirs, its level is not",
    ),
)
