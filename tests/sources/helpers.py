"""Small logs as files, and the values that were read from them."""

from __future__ import annotations

import json
from pathlib import Path

from postmortem.run import Run

ESCAPE = "\x1b[31m"


def write(tmp_path: Path, name: str, data: str | bytes) -> Path:
    """`data` as a file below `tmp_path`."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def jsonl_rows(n: int = 5) -> str:
    """`n` lines of JSON: steps, and a loss that falls."""
    return "".join(json.dumps({"step": t, "loss": 2.0 - t / 10}) + "\n" for t in range(n))


def losses(run: Run) -> dict[int, float]:
    """Step → loss."""
    series = run.series("loss")
    return {} if series is None else dict(zip(series.step.tolist(), series.value.tolist(), strict=True))
