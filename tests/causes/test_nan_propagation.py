"""The step of a destructive update: where the update norm or the count of non-finite values jumps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.causes import causes
from postmortem.diagnosis import Incident
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, write_run


def broken(folder: Path, jump: int | None, counted: int | None = None) -> Incident:
    """A run whose loss is NaN from step 302 on, after its update jumped at `jump`."""
    columns = healthy()
    columns["loss"][302:] = np.nan
    for name in ("token_loss_p50", "token_loss_p99", "token_loss_max", "grad_norm", "param_norm"):
        columns[name][302:] = np.nan
    if jump is not None:
        columns["update_rms"][jump] = 400.0
    columns["update_rms"][302:] = np.nan
    if counted is not None:
        columns["nonfinite_count"] = np.zeros(STEPS)
        columns["nonfinite_count"][counted:] = 9
    return diagnose(open_run(write_run(folder / "run", columns))).incidents[0]


@pytest.mark.parametrize("jump", [302 - 18, 295, 300, 301])
def test_an_update_that_jumps_before_the_first_nan_is_named(tmp_path: Path, jump: int) -> None:
    found = broken(tmp_path, jump)
    seen = next(e for e in found.evidence if e.observation == "update.before_nonfinite")
    assert seen.step == jump and seen.weights["nan_propagation"] > 0
    assert seen.text.startswith(f"update_rms jumps to 400 at step {jump}, baseline 0.3")
    assert seen.text.endswith(f"{302 - jump} step{'s' if jump < 301 else ''} before the first non-finite value")


def test_without_a_jump_none_is_claimed(tmp_path: Path) -> None:
    assert "update.before_nonfinite" not in {e.observation for e in broken(tmp_path, None).evidence}


def test_the_root_cause_names_the_step_of_the_jump_and_of_the_first_count(tmp_path: Path) -> None:
    found = broken(tmp_path, 300, counted=301)
    assert (found.hypotheses[0].cause, found.verdict) == ("nan_propagation", "supported")
    assert "nonfinite_count is above 0" in found.root_cause and "at step 301" in found.root_cause
    assert "update_rms jumps to 400 at step 300" in found.root_cause


def test_no_hash_is_asked_how_violently_it_changed() -> None:
    text = next(cause for cause in causes() if cause.slug == "nan_propagation").explain()
    assert "violent" not in text
    assert "`nonfinite_count`" in text and "`update_rms`" in text
