"""docs/diagnosis.md names every key of the schema."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from postmortem import diagnosis

PAGE = (Path(__file__).parent.parent / "docs" / "diagnosis.md").read_text()
PARTS = [
    diagnosis.Diagnosis,
    diagnosis.Incident,
    diagnosis.RunFacts,
    diagnosis.Symptom,
    diagnosis.Signal,
    diagnosis.Evidence,
    diagnosis.Hypothesis,
    diagnosis.Prediction,
    diagnosis.Experiment,
    diagnosis.PanelReading,
    diagnosis.Trace,
    diagnosis.Remedy,
    diagnosis.Verification,
    diagnosis.VerificationCheck,
    diagnosis.Sample,
    diagnosis.Token,
    diagnosis.Rollback,
    diagnosis.WatchdogRule,
]


@pytest.mark.parametrize("part", PARTS, ids=lambda p: p.__name__)
def test_every_key_is_documented(part: type) -> None:
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert {f.name for f in dataclasses.fields(part)} <= named
