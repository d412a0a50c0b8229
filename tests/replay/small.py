"""A run small enough to be replayed many times in a test, replays of it and of other runs, and edited copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from postmortem.arithmetic import arithmetic_of
from postmortem.change import Change
from postmortem.experiment.pool import run_replays
from postmortem.replay.run_replay import OnStep, replay
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Run
from postmortem.run.replayed import ReplayResult
from postmortem.sources import open_run
from tests.replay.ranks_program import record
from tests.samples import skip_on_other_arithmetic

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
) -> ReplayResult:
    """One replay in this process, which computes as it does; `changes` as the command line writes them."""
    return replay(
        make_spec(run, out, first, until, changes, trusted=trusted, **more), on_step=on_step, provenance=False
    )


def drive_as_recorded(run: Path, out: Path, first: int, until: int, *changes: str, **more: Any) -> ReplayResult:
    """One replay of a committed run, in a process that computes as the run did. Where this machine cannot, the test
    is skipped by the name of the run."""
    environment = open_run(run).manifest.environment
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)  # another in each test, where the process may be the same
        (done,) = run_replays(
            [make_spec(run, out, first, until, changes, **more)], arithmetic=arithmetic_of(environment)
        )
    assert done.result is not None, done.error
    skip_on_other_arithmetic(out)
    return done.result


def make_spec(run: Path, out: Path, first: int, until: int, changes: Sequence[str], **more: Any) -> ReplaySpec:
    """The spec of a replay."""
    return ReplaySpec(str(run), str(out), first, until, tuple(map(Change.from_text, changes)), **more)


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
    values = opened.labels(name) if name.endswith("_hash") else opened.series(name)
    return None if values is None else values.at(step)
