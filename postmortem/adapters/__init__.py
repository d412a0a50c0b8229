"""Other people's loops behind the contract of `postmortem.program`, so that their runs can be replayed.

    TorchLoop         a plain PyTorch loop, in a few lines
    HuggingFaceLoop   a transformers `Trainer`, through its own loop
    LightningLoop     a Lightning `Trainer`, through its own loop

A run names its program as `module:build`; `build(config)` returns one of these. Each is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from postmortem.errors import require

if TYPE_CHECKING:
    from postmortem.adapters.huggingface import HuggingFaceLoop
    from postmortem.adapters.lightning import LightningLoop
    from postmortem.adapters.torch_loop import TorchLoop

__all__ = ["HuggingFaceLoop", "LightningLoop", "TorchLoop"]

_MODULES = {"HuggingFaceLoop": "huggingface", "LightningLoop": "lightning", "TorchLoop": "torch_loop"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require(f"{__name__}.{name}", "train", "torch", "xxhash")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
