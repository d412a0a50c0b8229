"""fairseq and metaseq: `train_inner | epoch 001: 100 / 1000 loss=9.8, ppl=500.1, num_updates=100, gnorm=1.2`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="fairseq",
    keys=frozenset(("loss", "num_updates", "gnorm")),
    columns={"num_updates": "step", "gnorm": "grad_norm"},
    limits=("its loss is in bits (log base 2), and a mean over the updates since the line before",),
)
