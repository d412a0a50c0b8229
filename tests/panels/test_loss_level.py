"""What is said of a loss whose level changes as no learning changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.diagnosis import Incident
from tests.journals import event, worst
from tests.makers import STEPS, healthy, healthy_batches, noise, write_run

AT = 300


def _of(path: Path, factor: float, grad_factor: float, **batches: Any) -> Incident:
    columns = {name: column for name, column in healthy().items() if name in ("loss", "lr", "grad_norm")}
    columns["loss"][AT:] *= factor
    columns["grad_norm"][AT:] *= grad_factor
    resume = event("resume", AT, from_step=AT, missing=[])
    return worst(write_run(path, columns, batches={**healthy_batches(), **batches}, journal=[resume]))


def _texts(incident: Incident) -> dict[str, str]:
    return {e.observation: e.text for e in incident.evidence}


@pytest.mark.parametrize(
    ("grad_factor", "gradient"), [(1.0, "grad_norm does not"), (128.0, "grad_norm changes with it")]
)
def test_a_loss_that_is_summed_from_a_resume_on(grad_factor: float, gradient: str, tmp_path: Path) -> None:
    incident = _of(tmp_path / "run", 128.0, grad_factor)
    text = _texts(incident)["loss.reduction_changed"]
    assert text.startswith("the loss is 128× its level before step 300, and stays there; tokens is 128: a sum over the")
    assert gradient in text
    assert incident.hypotheses[0].cause == "unknown"


def test_a_sum_that_becomes_a_mean_is_a_drop_with_the_same_factor(tmp_path: Path) -> None:
    incident = _of(tmp_path / "run", 1 / 120, 1.0)
    assert (incident.kind, incident.onset_step) == ("level_drop", AT)
    texts = _texts(incident)
    assert "valid_labels is 120: a mean over the batch instead of a sum" in texts["loss.reduction_changed"]
    assert "at once at step 300, where the run was resumed, and stays there: learning" in texts["loss.falls_for_good"]


@pytest.mark.parametrize("factor", [3.0, 64.0])
def test_a_factor_that_is_no_number_of_the_log_says_nothing_of_a_sum(factor: float, tmp_path: Path) -> None:
    assert "loss.reduction_changed" not in _texts(_of(tmp_path / "run", factor, 1.0))


def test_a_loss_that_blows_up_past_a_number_of_the_log_is_no_sum(tmp_path: Path) -> None:
    columns = healthy()
    columns["loss"][AT:] *= 128 * np.exp(noise(1.0, STEPS - AT))
    assert "loss.reduction_changed" not in _texts(
        worst(write_run(tmp_path / "run", columns, batches=healthy_batches()))
    )


def test_a_drop_names_no_cause_that_it_excludes(tmp_path: Path) -> None:
    incident = _of(tmp_path / "run", 0.5, 1.0)
    assert incident.kind == "level_drop" and incident.hypotheses[0].cause == "unknown"
    assert _texts(incident)["loss.falls_for_good"].startswith(
        "the loss falls from 2.315 to 1.154 (0.5×) at once at step 300"
    )
