"""§6 holds for a run with the fix in it, and fails for the broken run itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from postmortem.assess.verification import verify
from postmortem.diagnosis import Verification, VerificationCheck
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import healthy, healthy_batches, worked_example, write_run


def test_the_broken_run_fails_and_a_clean_twin_passes(tmp_path: Path) -> None:
    broken = open_run(worked_example(tmp_path / "broken"))
    incident = diagnose(broken).incidents[0]
    assert incident.verification is not None
    failed = [r.text for r in verify(incident.verification, incident.onset_step, broken) if not r.passed]
    assert any("loss from step 312" in text for text in failed)
    assert any("grad norm" in text for text in failed)
    columns = healthy()
    columns["loss"][100:] = 2.31
    columns["grad_norm"][:] = 0.6
    clean = open_run(write_run(tmp_path / "clean", columns, batches=healthy_batches()))
    assert all(r.passed for r in verify(incident.verification, incident.onset_step, clean))


def test_what_was_not_logged_or_is_not_finite_does_not_pass(tmp_path: Path) -> None:
    loss = np.full(50, 2.0)
    loss[20] = math.nan
    run = open_run(write_run(tmp_path / "run", {"loss": loss}))
    checks = (
        VerificationCheck("loss", 0, 10, "<", 3.0, "low enough"),
        VerificationCheck("loss", 0, 40, "finite", None, "finite"),
        VerificationCheck("grad_norm", 0, 40, "<", 3.0, "calm"),
        VerificationCheck("loss", 0, 10, ">=", 2.5, "high enough"),
    )
    results = verify(Verification(None, None, None, 40, checks, ""), 0, run)
    assert [r.passed for r in results] == [True, False, False, False]
    assert results[2].measured is None


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", {"loss": np.full(50, 2.0)}, manifest={"seed": 7}))
    assert [r.passed for r in verify(Verification(42, None, None, 40, (), ""), 0, run)] == [False]
