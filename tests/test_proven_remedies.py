"""From a stored proof to the report: the incident that was proven leads, and what its replays showed is advised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.change import Change
from postmortem.diagnosis import Diagnosis, Experiment, Incident, leading
from postmortem.pipeline import diagnose
from postmortem.proof import check
from postmortem.proof.check import CheckedProof
from postmortem.proof.stored_proofs import Proof, store_proof
from postmortem.report import render, select_id
from postmortem.sources import open_run
from tests.makers import noise, write_run

BATCHES = (150, 151)
NULL = Experiment("R0", (), "persists", "nothing changed")
PLACEBO = Experiment("R2", (Change("skip", ((148, 149),)),), "persists", "skip batch 148")
REPLACED = Experiment("R3", (Change("replace", (BATCHES,)),), "cured", "other data")
MOVED = Experiment("R3", (Change("move", (BATCHES,), (190,)),), "follows", "moved")
OPEN = "the replays do not distinguish between garbage_data, long_tail_tokens"


def drafted(folder: Path, monkeypatch: pytest.MonkeyPatch, *experiments: Experiment) -> tuple[Diagnosis, Incident]:
    """A draft of a run with a small spike at step 150, which was tested, and a large one at 300."""
    loss = 3 + noise(0.02, 400)
    loss[150:153] += 2
    loss[300:303] += 5
    run = open_run(write_run(folder, {"loss": loss, "batch_index": np.arange(400)}))
    small = next(i for i in diagnose(run).incidents if i.onset_step == 150)
    checked = CheckedProof("undecided", "", OPEN, experiments)
    monkeypatch.setattr(check, "check_proof", lambda *_: checked)
    store_proof(folder, Proof(small.key, "undecided", "", "", experiments), ())
    again = diagnose(open_run(folder))
    first = leading(again.incidents)
    assert again.incidents[0].onset_step == 300 and first is not None
    return again, first


def test_the_proven_batches_of_the_leading_incident_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, shown = drafted(tmp_path / "run", monkeypatch, NULL, REPLACED, MOVED, PLACEBO)
    assert shown.onset_step == 150 and select_id(draft) == shown.id and draft.verdict == shown.verdict
    assert (shown.verdict, shown.root_cause) == ("undecided", "") and OPEN in shown.not_known
    assert (shown.remedy, shown.skip_window) == ((Change("skip", (BATCHES,)),), BATCHES)
    report = render(draft)
    assert "without batches [150, 151)" in report and "take the incident along" in report
    assert "Change nothing yet" not in report and "Skip window: batches `[150, 151)`" in report
    assert "The batches [150, 151) cause the loss spike" in shown.lesson


def test_the_rate_that_cured_is_the_remedy_and_not_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half, tenth = (Change("lr-scale", values=(share,)) for share in (0.5, 0.1))
    arms = Experiment("R1", (half,), "persists", "a half"), Experiment("R1", (tenth,), "cured", "a tenth")
    _, shown = drafted(tmp_path / "run", monkeypatch, NULL, *arms, PLACEBO)
    assert shown.onset_step == 150 and shown.remedy == (tenth,)
    text = "Lower the learning rate to 0.1 of it: with this a replay had no incident, and with 0.5 of it not."
    assert shown.changes[0].text == text and not any("alve" in remedy.text for remedy in shown.changes)


def test_a_placebo_that_cures_leaves_no_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cured = Experiment("R2", PLACEBO.changes, "cured", "skip batch 148")
    _, shown = drafted(tmp_path / "run", monkeypatch, NULL, REPLACED, MOVED, cured)
    assert shown.remedy is None and shown.onset_step == 150
    assert shown.changes[0].text.startswith("Change nothing yet")
