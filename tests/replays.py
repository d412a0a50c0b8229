"""Drives replays in this process, and makes a run on which an experiment takes a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree

import pytest

from postmortem.arithmetic import NATIVE, Arithmetic
from postmortem.errors import PostmortemError
from postmortem.experiment.pool import FinishedReplay, read_finished
from postmortem.replay.spec import ReplaySpec

AT = 110  # of the rogue run: its bad batch


class Driver:
    """Stands in for `run_replays`. `driven` are the names of the replays that were really driven."""

    def __init__(self) -> None:
        self.driven: list[str] = []

    def __call__(
        self,
        specs: Sequence[ReplaySpec],
        *,
        workers: int | None = None,
        arithmetic: Arithmetic = NATIVE,
        on_done: Callable[[FinishedReplay], None] | None = None,
    ) -> list[FinishedReplay]:
        """Drive them one after the other, as a separate process would."""
        outcomes: list[FinishedReplay] = []
        for spec in specs:
            outcomes.append(read_finished(spec) or self._drive(spec))
            if on_done is not None:
                on_done(outcomes[-1])
        return outcomes

    def _drive(self, spec: ReplaySpec) -> FinishedReplay:
        from postmortem.replay.run_replay import replay

        self.driven.append(Path(spec.out).name)
        try:
            return FinishedReplay(spec, replay(spec, provenance=False))
        except PostmortemError as error:
            return FinishedReplay(spec, None, str(error), error.exit_code)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Arms are driven in this process: a fresh one takes seconds to import torch."""
    driver = Driver()
    monkeypatch.setattr("postmortem.experiment.target.run_replays", driver)
    return driver


@pytest.fixture(scope="session")
def _rogue_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.replay.rogue_program import record

    return record(tmp_path_factory.mktemp("rogue") / "run", {"rogue": [AT], "rows": [2, 5]})


@pytest.fixture
def rogue_run(_rogue_run: Path, tmp_path: Path) -> Path:
    """A run of tests.replay.rogue_program: rows 2 and 5 of batch 110 hold rare tokens; checkpoints at 50 and 100."""
    return Path(copytree(_rogue_run, tmp_path / "run"))
