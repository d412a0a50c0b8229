"""What panel 12 says of a run that began anew, of ranks that differ, and of training that does nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.assess.detection import detect
from postmortem.case import Case
from postmortem.panels.state_identity import PANEL
from postmortem.sources import open_run

ROWS = 300


def _sentences(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Slug → sentence of the observations on the worst incident of a log."""
    path.write_text("\n".join(map(json.dumps, rows)))
    run = open_run(path)
    incidents = detect(run)
    return {o.slug: o.text for o in PANEL.measure(Case(run, incidents[0], incidents))}


def test_a_run_that_began_anew_is_said_with_loss_and_rate_of_both_steps(tmp_path: Path) -> None:
    since = np.arange(ROWS) % 200
    loss = 0.9 + 30 * np.exp(-since / 5) + 0.001 * np.random.default_rng(0).standard_normal(ROWS)
    rows = [{"step": 10 * i, "loss": float(loss[i]), "lr": 1e-3 * min(int(since[i]), 40) / 40} for i in range(ROWS)]
    loss[[0, 200]] = 31.13, 31.07
    rows[0]["loss"], rows[200]["loss"] = 31.13, 31.07
    text = _sentences(tmp_path / "metrics.jsonl", rows)["state.reinitialized"]
    assert text == "the run began anew at step 2000: the loss is 31.07 (31.13 at step 0), the rate 0 (0 at step 0)"


def test_ranks_that_differ_are_named_with_their_column(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((ROWS, 2))
    rows = [
        {"step": i, "rank": r, "loss": 2 + 0.05 * float(noise[i, r]), "param_hash": f"h{i}{'x' * r * (i >= 120)}"}
        for i in range(ROWS)
        for r in range(2)
    ]
    text = _sentences(tmp_path / "metrics.jsonl", rows)["state.ranks_differ"]
    assert text == (
        "param_hash differs between the ranks from step 120 on: rank 1 is not equal to rank 0, "
        "and they were equal before"
    )


@pytest.mark.parametrize(
    ("frozen", "text"),
    [
        (False, "nothing is trained: lr is 0 in all 300 rows"),
        (
            True,
            "nothing is trained: lr is 0 in all {n}, and loss does not change by a digit in {n}, from step 0 on",
        ),
    ],
)
def test_training_that_does_nothing_is_said_in_one_sentence(tmp_path: Path, frozen: bool, text: str) -> None:
    loss = np.full(ROWS, 2.302585)
    if not frozen:
        loss += 0.05 * np.random.default_rng(0).standard_normal(ROWS)
    rows = [{"step": i, "loss": float(loss[i]), "lr": 0.0} for i in range(ROWS)]
    said = _sentences(tmp_path / "metrics.jsonl", rows)["state.not_training"]
    text = text.replace("{n}", "300 rows")
    assert set(said.removeprefix("nothing is trained: ").split(", and ")) == set(
        text.removeprefix("nothing is trained: ").split(", and ")
    )
