"""Logs of real runs, where they are there: what must be found is found, and clean ones stay quiet."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from postmortem.detectors import find_incidents
from tests.detectors.helpers import REAL_LOGS, read_log, rows_telemetry

pytestmark = pytest.mark.skipif(not REAL_LOGS.exists(), reason="the real logs are not here")

FORMATS = ("AlgoPerf measurements.csv", "HF trainer_state.json", "JSONL")


def _labelled() -> list[dict[str, Any]]:
    path = REAL_LOGS / "labels.json"
    return [e for e in json.loads(path.read_text()) if e["format"] in FORMATS] if path.exists() else []


def _named(entry: dict[str, Any]) -> str:
    return str(entry["run_id"])


@pytest.mark.parametrize("entry", [e for e in _labelled() if e["label"] != "clean"], ids=_named)
def test_labelled_events_are_found(entry: dict[str, Any]) -> None:
    t = read_log(REAL_LOGS / entry["file"])
    found = find_incidents(t)
    onsets = [f.onset_step for i in found for f in i.findings]
    wanted = [s["start"] for s in entry["spikes"] if s.get("tier", "must") == "must"]
    wanted += [step for step in (entry["nan_onset"], *entry["resets"]) if step is not None]
    wanted += [s["step"] for s in entry["grad_norm"]["spikes"]]
    for step in wanted:
        assert any(abs(onset - step) <= entry["log_every"] for onset in onsets), f"{step} not in {onsets}"


@pytest.mark.parametrize("entry", [e for e in _labelled() if e["label"] == "clean"], ids=_named)
def test_clean_logs_stay_quiet(entry: dict[str, Any]) -> None:
    assert find_incidents(read_log(REAL_LOGS / entry["file"])) == ()


def test_blank_losses_are_called_suspected() -> None:
    t = read_log(REAL_LOGS / "ap_nadamp_s3_deepspeech_t4" / "measurements.csv")
    worst = find_incidents(t)[0]
    assert worst.kind == "suspected_non_finite" and worst.suspected
    assert worst.onset_interval == (19800, 19900)
    assert worst.outcome == "diverged" and worst.recovery_step is None


def test_the_labelled_runs_of_a_wide_export() -> None:
    entries = json.loads((REAL_LOGS / "labels.json").read_text())
    entry = next(e for e in entries if e["run_id"] == "wandbcsv_druidowm")
    with (REAL_LOGS / entry["file"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for spike in entry["spikes"]:
        column = f"{spike['series']} - train/loss"
        own = rows_telemetry([{"step": row["Step"], "loss": row[column]} for row in rows if row[column]])
        found = find_incidents(own)
        assert any(i.onset_step <= spike["start"] <= i.peak_step for i in found), found
