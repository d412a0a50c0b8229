"""Keras's progress bar: `100/100 ━━━━━━━━ 3s 20ms/step - accuracy: 0.8 - loss: 0.5`, below `Epoch 1/10`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="Keras",
    keys=frozenset(("batch", "loss", "accuracy")),
    limits=("its loss is a mean over the epoch so far",),
)
