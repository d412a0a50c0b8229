"""A run small enough to be replayed many times in a test, and copies of sample runs with something changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from postmortem.replay.driver import OnStep, replay
from postmortem.replay.order import Change, Order
from postmortem.replay.result import Replayed
from postmortem.run import Run
from postmortem.sources import open_run
from tests.replay.ranks_program import record

SAMPLES = Path(__file__).parents[2] / "sample_runs"
STEPS = 12  # of the small run; checkpoints at 4 and 8


def small_run(folder: Path, **config: Any) -> Path:
    """A run of `ranks_program` on one rank."""
    record(folder, STEPS, config)
    return folder


def drive(
    run: Path,
    out: Path,
    first: int,
    until: int,
    *changes: str,
    trusted: bool = True,
    on_step: OnStep | None = None,
    **more: Any,
) -> Replayed:
    """One replay; `changes` as the command line writes them."""
    parted = (text.partition("=") for text in changes)
    asked = tuple(Change(name, value) for name, _, value in parted)
    order = Order(str(run), str(out), first, until, asked, trusted=trusted, **more)
    return replay(order, on_step=on_step, provenance=False)


def edited(run: Path, out: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of `run` whose run.json went through `edit`."""
    shutil.copytree(run, out, symlinks=True)
    manifest = json.loads((out / "run.json").read_text())
    edit(manifest)
    (out / "run.json").write_text(json.dumps(manifest))
    return out


def column(run: Run | Path, name: str, step: int) -> Any:
    """What a run holds at one step."""
    opened = open_run(run) if isinstance(run, Path) else run
    held = opened.labels(name) if name.endswith("_hash") else opened.series(name)
    return None if held is None else held.at(step)
