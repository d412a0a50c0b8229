"""For a Lightning `Trainer`: `LightningCallback` records its runs, `LightningLoop` lets them be replayed.

Each is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from postmortem.frameworks._lazy import lazily

if TYPE_CHECKING:
    from postmortem.frameworks.lightning.record import LightningCallback
    from postmortem.frameworks.lightning.replay import LightningLoop

__all__ = ["LightningCallback", "LightningLoop"]


def __getattr__(name: str) -> Any:
    return lazily(__name__, name, {"LightningCallback": "record", "LightningLoop": "replay"})
