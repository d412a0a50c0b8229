"""Every incident that was found can be asked for, wherever it ranks and however far apart the rows are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.assess.detection import detect
from postmortem.errors import UsageError
from postmortem.pipeline import MAX_INCIDENTS, Examined, diagnose
from postmortem.proof.stored_proofs import Proof, store_proof
from postmortem.report import IncidentChoice, render, select_id, summarize
from postmortem.run import Run
from postmortem.sources import open_run
from postmortem.terminal_layout import joined
from tests.makers import noise, write_run

SPIKES, APART, ROW_STEP = MAX_INCIDENTS + 4, 150, 100


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """More spikes than are diagnosed unasked, each a little smaller than the one before, a row every 100 steps."""
    n = (SPIKES + 1) * APART
    loss = 2 + noise(0.005, n)
    loss[APART::APART][:SPIKES] += np.linspace(4, 1.5, SPIKES)
    return open_run(write_run(tmp_path_factory.mktemp("runs") / "run", {"loss": loss}, steps=np.arange(n) * ROW_STEP))


def test_every_incident_is_reached_by_step_and_by_number(run: Run) -> None:
    incidents, examined = detect(run), Examined(run)
    assert len(incidents) == SPIKES
    for rank, incident in enumerate(incidents, 1):
        for asked in (
            IncidentChoice(rank),
            IncidentChoice(at=incident.onset_step),
            IncidentChoice(at=incident.onset_step - 20 * ROW_STEP),
        ):
            found = examined.diagnosis(asked)
            assert select_id(found, number=asked.number, at=asked.at) == rank
            assert next(i for i in found.incidents if i.id == rank).key == incident.key
            assert found.incidents_found == SPIKES and len(found.incidents) == max(
                MAX_INCIDENTS, MAX_INCIDENTS + (rank > MAX_INCIDENTS)
            )


def test_what_is_not_asked_for_is_not_weighed(run: Run) -> None:
    found = diagnose(run)
    assert [i.id for i in found.incidents] == [*range(1, MAX_INCIDENTS + 1)] and found.incidents_found == SPIKES
    assert f"{SPIKES} incidents were found" in found.notes[-1] and f"{SPIKES} incidents were found" in render(found)
    assert any(joined(line).endswith(f"and {SPIKES - 6} more.") for line in summarize(found))
    with pytest.raises(UsageError, match=rf"no incident {SPIKES}: .* and {SPIKES - MAX_INCIDENTS} others"):
        select_id(found, number=SPIKES)
    with pytest.raises(UsageError, match="within 50 rows of it"):
        select_id(found, at=(APART // 3) * ROW_STEP - 1)


def test_a_proven_incident_is_diagnosed_wherever_it_ranks(run: Run, tmp_path: Path) -> None:
    last = detect(run)[-1]
    copied = open_run(write_run(tmp_path / "run", {"loss": run.series("loss").value}, steps=run.row_steps))  # type: ignore[union-attr]
    store_proof(tmp_path / "run", Proof(last.key, "undecided", "", "", ()), [])
    assert [i.key for i in diagnose(copied).incidents][-1] == last.key
