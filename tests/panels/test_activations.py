"""Panel 4 on layers that move: which, when, and by how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from postmortem.diagnosis import Evidence
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import healthy, worked_example, write_run


def moved(root: Path) -> Evidence:
    found = diagnose(open_run(root)).incidents[0]
    return next(e for e in found.evidence if e.observation == "activations.moved")


def test_the_layer_that_moved_most_is_named_with_its_factor(tmp_path: Path) -> None:
    seen = moved(worked_example(tmp_path / "run"))
    assert seen.step == 312 and "act_rms/embedding 3.2 at step 312, baseline 1 (3.2×)" in seen.text
    assert seen.weights["long_tail_tokens"] > 0


def test_layers_are_in_the_order_in_which_they_moved(tmp_path: Path) -> None:
    columns = healthy()
    columns["loss"][302:320] += 2.0
    columns["act_rms/embedding"] = np.where(np.arange(len(columns["loss"])) == 303, 3.2, columns["act_rms/embedding"])
    columns["act_rms/layer0"] = np.where(np.arange(len(columns["loss"])) == 301, 6.0, columns["act_rms/layer0"])
    text = moved(write_run(tmp_path / "run", columns)).text
    assert "layer0 (step 301), then embedding (step 303)" in text
