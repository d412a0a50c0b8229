"""Minimal checkpoints: the whole state in one file, there or not there, and loaded without trusting it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import torch

from postmortem.atomic import write_bytes

ROLE = "rollback"


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the state before step `step` lies."""
    return run / ROLE / f"step-{step:08d}.pt"


def save(run: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` atomically; returns the file."""
    path = checkpoint_path(run, step)
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())
    return path


def load(path: Path) -> dict[str, Any]:
    """The state in `path`: tensors and plain types only, anything else is refused by torch's restricted unpickler."""
    return cast(dict[str, Any], torch.load(path, weights_only=True))
