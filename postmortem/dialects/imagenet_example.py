"""PyTorch's ImageNet example and its copies: `Epoch: [3][ 120/5004] Time 0.5 (0.6) Loss 6.9e+00 (6.8e+00)`."""

from __future__ import annotations

from postmortem.dialects import Dialect

DIALECT = Dialect(
    name="PyTorch's ImageNet example",
    keys=frozenset(("Epoch", "batch", "Loss", "Time")),
    columns={"Time": "step_time_s"},
)
