"""What a diagnosis in mode watchdog says: what to do, or what the rule let pass; and which batch a NaN is blamed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import postmortem as pm
from postmortem.detectors import Mode, Watchdog
from postmortem.diagnosis import Diagnosis, load
from postmortem.pipeline import diagnose
from postmortem.report import render, summarize
from postmortem.sources import open_run
from postmortem.terminal_layout import joined
from tests.makers import healthy, worked_example, write_run
from tests.samples import sample


def texts(found: Diagnosis) -> tuple[str, str]:
    """The report, and the summary for a terminal."""
    return render(found), "\n".join(joined(line) for line in summarize(found))


def test_what_the_watchdog_asks_for_is_in_diagnosis_report_and_terminal(tmp_path: Path) -> None:
    found = diagnose(open_run(worked_example(tmp_path / "held")), mode="watchdog")
    asked = found.incidents[0].rollback
    assert asked is not None and found.watchdog is not None and found.watchdog.passed == ""
    onset = found.incidents[0].onset_step
    assert asked.rollback_to_step == onset - 100 and asked.skip_batches == 200
    assert asked.skip == (onset - 100, onset + 100) and asked.reason == "loss_spike_sustained"
    for text in texts(found):
        assert f"roll back to step {onset - 100} (no checkpoint is visible to this log" in text
        assert "and skip 200 batches" in text
        assert "loss_spike_sustained" in text.replace("\\", "")
    (tmp_path / "d.json").write_text(found.to_json())
    assert load(tmp_path / "d.json") == found


def test_the_other_mode_says_nothing_of_it(tmp_path: Path) -> None:
    found = diagnose(open_run(worked_example(tmp_path / "held")))
    assert found.watchdog is None and found.incidents[0].rollback is None
    assert all("atchdog" not in text for text in texts(found))


def test_without_an_old_checkpoint_it_starts_from_scratch() -> None:
    found = diagnose(open_run(sample("20-run-004")), mode=Watchdog(margin=850))  # the onset is step 905
    asked = found.incidents[0].rollback
    assert asked is not None and asked.rollback_to_step is None and asked.skip == (55, 255)
    assert all("start from scratch, because no checkpoint is 850 steps older" in text for text in texts(found))


SPIKE = {**healthy(), "loss": np.where(np.arange(len(healthy()["loss"])) == 300, 2.1, 1.0) * 2.0}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ratio": 5.0}, "2.1× its rolling median at step 300 is below its ratio of 5"),
        ({}, "2.1× its rolling median at step 300 is above its ratio of 1.25, but the longest stretch is 1 row"),
    ],
)
def test_a_spike_that_the_rule_lets_pass_is_not_called_quiet(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    found = diagnose(open_run(write_run(tmp_path / "run", SPIKE)), mode=Watchdog(**settings))
    assert found.verdict == "no_incident" and found.watchdog is not None
    for text in texts(found):
        assert says in text and "nothing in the log departs" not in text and "Nothing unusual in" not in text
        assert "finds loss spike at step 300" in text
    examined = {panel.slug for panel in found.quiet_panels if not panel.silent}
    assert examined == {"loss"}, "no other panel was looked at"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"lr": np.linspace(1e-3, 1e-4, 300)},
            "the watchdog looks at the train loss only: none was recognized among lr: log the loss in each row",
        ),
        (
            {"loss": np.linspace(3.0, 2.9, 60)},
            "too few rows of loss for the watchdog's baseline (60,",
        ),
        ({"loss": np.full(300, 2.0)}, "1× its rolling median at step 104 is below its ratio of 1.25"),
    ],
)
def test_it_says_no_more_than_it_looked_at(tmp_path: Path, columns: dict[str, np.ndarray], says: str) -> None:
    found = diagnose(open_run(write_run(tmp_path / "run", columns)), mode="watchdog")
    assert says in texts(found)[1]


def test_the_batch_before_a_nan_is_suspected() -> None:
    run = open_run(sample("20-run-004"))
    everything, watched = diagnose(run).incidents[0], diagnose(run, mode="watchdog").incidents[0]
    assert (watched.onset_step, watched.skip_window, watched.remedy) == (905, (905, 906), everything.remedy)
    assert everything.skip_window == (905, 906)


@pytest.mark.parametrize("mode", ["all", "watchdog"])
@pytest.mark.parametrize("norm", [None, 1.0], ids=["loss alone", "a sound gradient before"])
def test_a_nan_that_nothing_explains_blames_the_batch_before_as_well(
    tmp_path: Path, mode: Mode, norm: float | None
) -> None:
    loss = healthy()["loss"].copy()
    loss[300:] = np.nan
    columns = {"loss": loss} if norm is None else {"loss": loss, "grad_norm": np.where(np.isnan(loss), np.nan, norm)}
    incident = diagnose(open_run(write_run(tmp_path / "run", columns)), mode=mode).incidents[0]
    window = incident.skip_window
    assert incident.onset_step == 300 and window is not None
    assert window[0] == (299 if norm is None else 300) and window[1] == 301


@pytest.mark.parametrize(
    "settings", [{"ratio": 2.0}, {"sustain": 5}, {"history": 50}, {"mode": "watchdog", "ratio": 0.5}]
)
def test_settings_without_the_mode_or_without_sense_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = write_run(tmp_path / "run", healthy())
    with pytest.raises(ValueError, match=r"is a setting of mode watchdog|expected a number"):
        pm.diagnose(path, **settings)
