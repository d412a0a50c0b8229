"""Composer: a block, `[epoch=1][batch=10/100]:` and below it `\t Train loss/train/total: 7.3`, one line a metric."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="Composer",
    keys=frozenset(("Train loss/train/total",)),
    columns={"Train loss/train/total": "loss"},
    keywords=(b"[batch=",),
)
