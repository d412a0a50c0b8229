"""Support for training frameworks: callbacks record their runs, and loops make those runs replayable.

    TorchLoop         a plain PyTorch loop, in a few lines
    huggingface       a transformers `Trainer`: `HuggingFaceCallback` records it, `HuggingFaceLoop` replays it
    lightning         a Lightning `Trainer`: `LightningCallback` records it, `LightningLoop` replays it
    hooks             any trainer that takes a hook object: `PostmortemHook` records it

A run names its program as `module:build`; `build(config)` returns one of the loops. Each is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from postmortem.frameworks._lazy import import_lazily

if TYPE_CHECKING:
    from postmortem.frameworks.huggingface.replay import HuggingFaceLoop
    from postmortem.frameworks.lightning.replay import LightningLoop
    from postmortem.frameworks.torch_loop import TorchLoop

__all__ = ["HuggingFaceLoop", "LightningLoop", "TorchLoop"]

_MODULES = {"HuggingFaceLoop": "huggingface.replay", "LightningLoop": "lightning.replay", "TorchLoop": "torch_loop"}


def __getattr__(name: str) -> Any:
    return import_lazily(__name__, name, _MODULES)
