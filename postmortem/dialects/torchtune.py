"""torchtune's progress bar: `1|120|Loss: 2.3456:  10%|█ | 120/1200 [00:10<01:30]`, epoch and step first."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="torchtune",
    keys=frozenset(("step", "Loss", "batch")),
    limits=("no gradient norm and no rate are printed",),
)
