"""For a transformers `Trainer`: `HuggingFaceCallback` records its runs, `HuggingFaceLoop` replays them.

Each is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from postmortem.frameworks._lazy import import_lazily

if TYPE_CHECKING:
    from postmortem.frameworks.huggingface.record import HuggingFaceCallback
    from postmortem.frameworks.huggingface.replay import HuggingFaceLoop

__all__ = ["HuggingFaceCallback", "HuggingFaceLoop"]


def __getattr__(name: str) -> Any:
    return import_lazily(__name__, name, {"HuggingFaceCallback": "record", "HuggingFaceLoop": "replay"})
