"""nanoGPT: `iter 30: loss 6.3877, time 265.37ms, mfu 9.31%`, and `step 250: train loss 2.4501, val loss 2.4402`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="nanoGPT",
    keys=frozenset(("iter", "loss", "time_ms", "mfu")),
    limits=("no gradient norm and no rate are printed",),
)
