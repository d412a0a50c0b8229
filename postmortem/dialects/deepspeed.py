"""DeepSpeed's own line: `[Rank 0] step=10, skipped=0, lr=[0.0001], mom=[(0.9, 0.95)]`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="DeepSpeed",
    keys=frozenset(("step", "skipped", "lr", "mom")),
    keywords=(b"skipped=",),
    limits=("updates that overflowed are skipped without a line; `skipped` counts them",),
)
