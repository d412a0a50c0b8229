"""§1 of the report: the loss after the peak, why an incident lingers, and runs that log no loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.diagnosis import Incident, Symptom
from postmortem.pipeline import diagnose
from postmortem.report import render
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, noise, worked_example, write_run


def worst(root: Path) -> Incident:
    return diagnose(open_run(root)).incidents[0]


def symptom(incident: Incident, key: str) -> Symptom:
    return next(s for s in incident.symptoms if s.key == key)


def test_the_loss_50_steps_after_the_peak_stands_beside_the_recovery(tmp_path: Path) -> None:
    found = worst(worked_example(tmp_path / "run"))
    assert [s.key for s in found.symptoms][3:5] == ["recovery_loss", "loss_after_peak"]
    after = symptom(found, "loss_after_peak")
    assert (after.label, after.value, after.step) == ("loss 50 steps after the peak", pytest.approx(3.40), 363)


@pytest.mark.parametrize(
    ("rows", "missing"), [(320, "the log of the loss ends 19 steps after it"), (301, "the log ends at the peak")]
)
def test_a_log_that_ends_before_says_so(tmp_path: Path, rows: int, missing: str) -> None:
    columns = {name: values[:rows] for name, values in healthy().items()}
    columns["loss"][300] += 2
    assert symptom(worst(write_run(tmp_path / "run", columns)), "loss_after_peak").missing == missing


def test_where_rows_are_sparse_it_is_50_rows(tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[300] += 2
    after = symptom(worst(write_run(tmp_path / "run", {"loss": loss}, steps=np.arange(STEPS) * 10)), "loss_after_peak")
    assert (after.label, after.value, after.step) == ("loss 50 rows after the peak", pytest.approx(loss[350]), 3500)


def test_lingering_says_why_beside_a_recovery_step(tmp_path: Path) -> None:
    found = worst(worked_example(tmp_path / "run"))
    assert (found.outcome, found.recovery_step) == ("lingering", 360)
    reason = "the loss settles at step 360, but not at its old level of 2.31"
    assert reason in symptom(found, "recovery_loss").text
    assert reason in found.summary
    d = diagnose(open_run(tmp_path / "run"))
    beside = [line for line in render(d).splitlines() if "360" in line]
    assert beside and all("level" in line for line in beside if "lingering" in line or "recovery" in line)
    assert "recovery 360 (at another level)" in render(d, format="terminal")


def test_a_loss_that_is_not_logged_did_not_stay_still(tmp_path: Path) -> None:
    columns = healthy()
    del columns["loss"]
    columns["grad_norm"][300:] = np.nan
    found = worst(write_run(tmp_path / "run", columns))
    assert found.summary == "non-finite grad_norm at step 300: grad_norm 0.5796 → NaN, diverged; no loss is logged"
    assert all("did not move" not in s.text for s in found.symptoms)


@pytest.mark.parametrize("every", [1, 10])
def test_the_loss_before_is_an_exponential_mean_of_fifty_rows(tmp_path: Path, every: int) -> None:
    loss = 2.0 + 3.0 * np.exp(-np.arange(STEPS) / 80) + noise(0.02)
    loss[300:] += 4.0
    mean = float(loss[100])  # its own weight is 1/3000 by the onset; the tool starts from no single row
    for value in loss[101:300]:
        mean += 2 / 51 * (float(value) - mean)
    run = write_run(tmp_path / "run", {"loss": loss}, steps=np.arange(STEPS) * every)
    before = symptom(worst(run), "pre_spike_loss")
    assert before.value == pytest.approx(mean, abs=5e-4) and before.step == 299 * every
    assert f"50-{'step' if every == 1 else 'row'} EMA" in before.label
    assert abs(mean - float(loss[250:300].mean())) > 0.002, "a plain mean of fifty rows is another figure"


def test_a_new_start_is_told_as_none_of_a_rollback(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    loss = np.tile(2 + 8 * np.exp(-np.arange(300) / 40), 2) + 0.02 * rng.standard_normal(600)
    loss[200:300] += 5
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n" + "".join(f"{i % 300},{value}\n" for i, value in enumerate(loss)))
    diagnosis = diagnose(open_run(log))
    found = diagnosis.incidents[0]
    assert found.discarded and "set aside by a new start" in found.summary
    assert found.since.startswith("The training was started again") and "rollback" not in found.since
    assert diagnosis.run.resumes == ("started again from step 0",)
