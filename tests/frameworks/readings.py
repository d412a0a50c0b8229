"""Reading a run back through the same door as a user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from postmortem.sources import open_run


def numbers(path: Path, name: str) -> dict[int, float]:
    """step → value of a column of the effective history."""
    series = open_run(path).series(name)
    return {} if series is None else dict(zip(series.step.tolist(), series.value.tolist(), strict=True))


def hashes(path: Path) -> dict[int, str]:
    """step → hash of the batch."""
    labels = open_run(path).labels("batch_hash")
    assert labels is not None
    return dict(zip(labels.step.tolist(), labels.value.tolist(), strict=True))


def events(path: Path, name: str) -> list[dict[str, Any]]:
    """The keys of the journal's events of one name, `step` among them."""
    return [{"step": event.step, **event.keys} for event in open_run(path).journal if event.event == name]
