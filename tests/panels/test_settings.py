"""What is said of settings that changed, and that no cause is named for them alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.diagnosis import Incident
from tests.journals import event, worst
from tests.makers import STEPS, healthy, healthy_batches, write_run

AT = 300
RESUMED = (event("resume", AT, from_step=AT, missing=[]),)


def _text(incident: Incident, slug: str) -> str:
    return next(e.text for e in incident.evidence if e.observation == slug)


@pytest.mark.parametrize("column", ["tokens", "valid_labels"])
def test_a_batch_of_a_quarter_at_a_journaled_resume(column: str, tmp_path: Path) -> None:
    batches = healthy_batches()
    batches[column] = [4096] * AT + [1024] * (STEPS - AT)
    incident = worst(write_run(tmp_path / "run", healthy(), batches=batches, journal=RESUMED))
    assert (incident.kind, incident.onset_step) == ("setting_change", AT)
    said_so = f"{column} changes from 4,096 to 1,024 (0.25×) at step 300, where the run was resumed"
    assert _text(incident, "data.batch_changed") == said_so
    assert incident.hypotheses[0].cause == "unknown" and not incident.root_cause


@pytest.mark.parametrize("name", ["gradient_accumulation_steps", "accumulate_grad_batches", "accumulation"])
def test_a_setting_is_known_by_the_names_of_other_tools(name: str, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"loss": healthy()["loss"], name: np.repeat([8, 2], [AT, STEPS - AT])}
    incident = worst(write_run(tmp_path / "run", columns))
    assert _text(incident, "data.batch_changed") == "accumulation changes from 8 to 2 (0.25×) at step 300"


def test_what_was_zero_has_no_factor(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"loss": healthy()["loss"], "batch_size": np.repeat([0, 8], [AT, STEPS - AT])}
    incident = worst(write_run(tmp_path / "run", columns))
    assert _text(incident, "data.batch_changed") == "batch_size changes from 0 to 8 at step 300"


def _clipped(threshold: np.ndarray) -> dict[str, np.ndarray]:
    columns = healthy()
    columns["grad_norm"] *= 2
    return {**columns, "clip_threshold": threshold, "grad_norm_clipped": np.minimum(columns["grad_norm"], threshold)}


@pytest.mark.parametrize(("off", "word"), [(math.inf, "none"), (1e9, "1e+09")])
def test_a_clip_threshold_that_is_gone_is_a_setting_and_no_divergence(off: float, word: str, tmp_path: Path) -> None:
    columns = _clipped(np.repeat([1.0, off], [AT, STEPS - AT]))
    incident = worst(write_run(tmp_path / "run", columns, journal=RESUMED))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("setting_change", AT, "lingering")
    text = _text(incident, "grad_norm.clip_off" if math.isinf(off) else "grad_norm.clip_changed")
    assert text.startswith(
        f"clip_threshold changes from 1 to {word} at step 300, where the run was resumed: since then"
    )
    assert "grad_norm_clipped follows grad_norm, which it did in" in text
    assert incident.hypotheses[0].cause == "unknown"
    assert not any("non-finite" in e.text for e in incident.evidence)


def test_a_lower_threshold_is_told_without_a_word_on_what_follows(tmp_path: Path) -> None:
    incident = worst(write_run(tmp_path / "run", _clipped(np.repeat([1.0, 0.5], [AT, STEPS - AT]))))
    assert _text(incident, "grad_norm.clip_changed") == "clip_threshold changes from 1 to 0.5 at step 300"
