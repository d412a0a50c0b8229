"""Panel 9 on updates that a trainer skips: for a NaN, for a large gradient, and because half precision overflowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.diagnosis import Incident
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, skip_on_nan, write_run


def worst(path: Path) -> Incident:
    return diagnose(open_run(path)).incidents[0]


def share(incident: Incident, cause: str) -> float:
    return next((h.probability for h in incident.hypotheses if h.cause == cause), 0.0)


@pytest.mark.parametrize("dtype", [None, "fp32", "bf16", "fp16"])
def test_a_trainer_that_skips_nan_losses_has_no_loss_scale_to_fall(tmp_path: Path, dtype: str | None) -> None:
    found = worst(skip_on_nan(tmp_path / "run", dtype=dtype))
    texts = [found.summary, found.root_cause, *(e.text for e in found.evidence), *(c.text for c in found.changes)]
    assert not [text for text in texts if "loss scale" in text or "loss_scale" in text]
    assert not any("Train in bf16" in change.text for change in found.changes)
    assert found.verdict == "undecided"
    assert share(found, "fp16_overflow") < 0.2
    assert {s.kind for s in found.signals} == {"non_finite", "skipped_updates"}


@pytest.mark.parametrize("total", [False, True], ids=["flag", "running total"])
def test_all_skipped_updates_of_the_incident_are_counted(tmp_path: Path, total: bool) -> None:
    root = skip_on_nan(tmp_path / "run")
    if total:
        columns = healthy()
        t = np.arange(STEPS)
        nan = (t >= 300) & (t < 330) & (t % 10 < 4)
        columns["loss"][nan], columns["skipped"] = np.nan, np.cumsum(nan).astype(float)
        root = write_run(tmp_path / "total", columns)
    skipped = next(e for e in worst(root).evidence if e.observation == "numerics.skipped_nonfinite_loss")
    assert skipped.text == "skipped: 12 updates, the first at step 300; the loss of these steps is non-finite"
    assert skipped.figures["total"] == 12


def test_skipping_large_gradients_is_no_overflow(tmp_path: Path) -> None:
    columns = healthy()
    columns["grad_norm"][300:306] *= 30
    columns["skipped"] = np.zeros(STEPS)
    columns["skipped"][300:306] = 1
    found = worst(write_run(tmp_path / "run", columns, manifest={"dtype": "fp16"}))
    assert "numerics.skipped_finite" in {e.observation for e in found.evidence}
    assert share(found, "fp16_overflow") < 0.3


def test_skipped_steps_of_an_overflow_still_favor_it(tmp_path: Path) -> None:
    columns = healthy()
    columns["grad_norm"][300:306] = np.inf
    columns["skipped"] = np.zeros(STEPS)
    columns["skipped"][300:306] = 1
    columns["loss"][306:330] += 1.5
    found = worst(write_run(tmp_path / "run", columns, manifest={"dtype": "fp16"}))
    assert "numerics.skipped" in {e.observation for e in found.evidence}
    assert found.hypotheses[0].cause == "fp16_overflow"


def test_a_count_of_non_finite_values_says_in_how_many_rows(tmp_path: Path) -> None:
    """Other tools count steps, or write a flag, in what this column is named after."""
    columns = healthy()
    columns["nonfinite_count"] = np.zeros(STEPS)
    columns["nonfinite_count"][300:303] = 1, 17, 1
    columns["loss"][300:320] += 2
    found = worst(write_run(tmp_path / "run", columns))
    text = next(e.text for e in found.evidence if e.observation == "numerics.nonfinite_gradient")
    assert text == "nonfinite_count is above 0 in 3 rows (at most 17), first at step 300"
