"""Logs of real runs, read as a user reads them: each labeled event is found, and clean logs have no incidents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from postmortem.assess.detection import detect
from postmortem.sources import open_run

LOGS = Path(__file__).resolve().parent.parent.parent / "shared" / "real_logs"
READABLE = (".csv", ".json", ".jsonl", ".log", ".txt", ".out")
LABELS: list[dict[str, Any]] = json.loads((LOGS / "labels.json").read_text()) if LOGS.is_dir() else []
RUNS = [label for label in LABELS if label["file"].endswith(READABLE) or "tfevents" in label["file"]]
SINGLE = [label for label in RUNS if label["label"] != "multi_run_export"]
EXPORT = [(label["file"], spike) for label in RUNS if label["label"] == "multi_run_export" for spike in label["spikes"]]


def covers(incident: Any, step: float) -> bool:
    """Whether the labeled step is between the last normal row and the peak or recovery."""
    first = incident.onset_interval[0] if incident.onset_interval else incident.onset_step
    return first <= step <= max(incident.peak_step, incident.recovery_step or 0)


@pytest.mark.parametrize("label", SINGLE, ids=lambda label: label["run_id"])
def test_labeled_events_are_found(label: dict[str, Any]) -> None:
    incidents = detect(open_run(LOGS / label["file"]))
    for spike in label["spikes"]:
        if spike.get("tier", "must") == "must":
            assert any(covers(incident, spike["peak_step"]) for incident in incidents), spike
    for step in label["resets"]:
        assert any(covers(incident, step) for incident in incidents), step
    for spike in label["grad_norm"]["spikes"]:
        assert any(f.column == "grad_norm" and f.onset_step == spike["step"] for i in incidents for f in i.findings), (
            spike
        )
    if label["nan_onset"] is not None:
        fatal = [f for i in incidents for f in i.findings if f.kind in ("non_finite", "suspected_non_finite")]
        assert any(f.column == "loss" and f.onset_step == label["nan_onset"] for f in fatal)


@pytest.mark.parametrize(
    "label", [label for label in SINGLE if label["label"] == "clean"], ids=lambda label: label["run_id"]
)
def test_clean_logs_stay_quiet(label: dict[str, Any]) -> None:
    assert detect(open_run(LOGS / label["file"])) == ()


@pytest.mark.parametrize(("file", "spike"), EXPORT, ids=[spike["series"][:24] for _, spike in EXPORT])
def test_a_run_of_an_export_is_read_by_its_column(file: str, spike: dict[str, Any]) -> None:
    run = open_run(LOGS / file, {"loss": f"{spike['series']} - train/loss"})
    assert any(covers(incident, spike["peak_step"]) for incident in detect(run))


@pytest.mark.skipif(not LABELS, reason="the real logs are not here")
def test_a_loss_that_goes_blank_is_called_suspected() -> None:
    worst = detect(open_run(LOGS / "ap_nadamp_s3_deepspeech_t4" / "measurements.csv"))[0]
    assert (worst.kind, worst.suspected, worst.outcome) == ("suspected_non_finite", True, "diverged")
    assert worst.onset_interval == (19800, 19900)
