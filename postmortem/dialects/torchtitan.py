"""torchtitan: `[rank0]:… - root - INFO - step: 10  loss: 8.0000  grad_norm: 1.2  memory: 12.3GiB(15%)  tps: 1,234`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="torchtitan",
    keys=frozenset(("step", "loss", "memory", "tps")),
    columns={"tps": "tokens_per_s"},
    limits=("its loss is of every few steps, and no rate is printed",),
)
