"""Saves and resumes checkpoints on `torch.distributed.checkpoint`: three cadences, retention, a resume with a summary.

    with Recorder("runs/exp7") as rec, Checkpointer(rec, TrainState(model, optimizer, scheduler)) as saves:
        start = saves.resume()
        for step in range(start.step if start else 0, steps):
            …
            saves.maybe_save(step + 1)

Importing this package imports no torch; the first use of a name that needs it does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from postmortem.checkpoint._journal import CheckpointWarning, Journal, NotFinite
from postmortem.checkpoint.policy import Policy

if TYPE_CHECKING:
    from postmortem.checkpoint.checkpointer import Checkpointer, Resumed, Stateful
    from postmortem.checkpoint.load import load_checkpoint
    from postmortem.checkpoint.state import TrainState

__all__ = [
    "CheckpointWarning",
    "Checkpointer",
    "Journal",
    "NotFinite",
    "Policy",
    "Resumed",
    "Stateful",
    "TrainState",
    "load_checkpoint",
]

_HOMES = {
    "Checkpointer": "checkpointer",
    "Resumed": "checkpointer",
    "Stateful": "checkpointer",
    "TrainState": "state",
    "load_checkpoint": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
