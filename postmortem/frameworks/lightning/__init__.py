"""For a Lightning `Trainer`: `LightningCallback` records its runs, `LightningLoop` replays them.

Each is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from postmortem.frameworks._lazy import import_lazily

if TYPE_CHECKING:
    from postmortem.frameworks.lightning.record import LightningCallback
    from postmortem.frameworks.lightning.replay import LightningLoop

__all__ = ["LightningCallback", "LightningLoop"]


def __getattr__(name: str) -> Any:
    return import_lazily(__name__, name, {"LightningCallback": "record", "LightningLoop": "replay"})
