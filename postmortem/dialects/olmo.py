"""OLMo: a block a step, `[step=10/739328]` and below it `    train/CrossEntropyLoss=11.28`, one line a metric."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="OLMo",
    keys=frozenset(("train/CrossEntropyLoss",)),
    keywords=(b"[step=", b"optim/"),
)
