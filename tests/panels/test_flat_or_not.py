"""What stands still, what moved, and what is large in a baseline too noisy to say; and the evaluation loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.assess.symptoms import summary, symptoms
from postmortem.assess.wording import watch_advice
from postmortem.case import Case, Observation
from postmortem.detectors import DetectedIncident, Finding, find_incidents
from postmortem.incident import Outcome
from postmortem.panels import panels
from postmortem.pipeline import detect
from postmortem.sources import open_run
from tests.detectors.helpers import telemetry
from tests.makers import STEPS, healthy, noise, write_run

AT = 300


def case_of(folder: Path, **columns: np.ndarray) -> Case:
    run = open_run(write_run(folder / "run", columns))
    found = detect(run)
    return Case(run, found[0], found)


def observed(case: Case) -> dict[str, Observation]:
    return {o.slug: o for panel in panels() for o in panel.read(case)[1]}


def spiked() -> np.ndarray:
    loss = healthy()["loss"]
    loss[AT : AT + 5] += 3
    return loss


def test_a_large_departure_from_a_noisy_baseline_is_not_flat(tmp_path: Path) -> None:
    """It tells neither for a calm gradient nor for a spike: no cause weighs it."""
    norm = np.exp(noise(1.2, seed=3))
    norm[AT : AT + 5] = 45 * float(np.median(norm[200:AT]))
    seen = observed(case_of(tmp_path, loss=spiked(), grad_norm=norm))
    assert "grad_norm.flat" not in seen
    assert "did not move" not in seen["grad_norm.unclear"].text
    assert "the rows before lie between" in seen["grad_norm.unclear"].text


def test_the_same_noise_alone_is_flat(tmp_path: Path) -> None:
    seen = observed(case_of(tmp_path, loss=spiked(), grad_norm=0.6 * np.exp(noise(0.2, seed=3))))
    assert "did not move" in seen["grad_norm.flat"].text


@pytest.mark.parametrize(("change", "moved"), [(0.01, False), (0.5, True)])
def test_one_unit_of_the_last_place_is_no_departure(change: float, moved: bool, tmp_path: Path) -> None:
    """A log with two decimals, of a column that is always 0.03."""
    norm = np.full(STEPS, 0.03)
    norm[AT : AT + 5] += change
    departure = case_of(tmp_path, loss=spiked(), grad_norm=norm).departure("grad_norm", sign=1)
    assert departure is not None and departure.moved == moved


def test_a_loss_with_both_signs_has_no_ratio(tmp_path: Path) -> None:
    loss = noise(0.02, seed=4)
    loss[AT : AT + 5] += 3
    case = case_of(tmp_path, loss=loss, grad_norm=healthy()["grad_norm"])
    assert "×" not in summary(case)
    assert "×" not in observed(case)["loss.spike"].text
    assert " → 3" in summary(case) or " → 2.9" in summary(case)


def on_eval(folder: Path, loss: np.ndarray, outcome: Outcome) -> Case:
    """The case of an incident that a rise of the evaluation loss opens, in a run that is calm otherwise."""
    run = open_run(write_run(folder, {"loss": healthy()["loss"], "eval_loss": loss}))
    rows = loss[AT:]
    found = Finding(
        *("eval", "eval_loss_rise", "eval_loss", AT, None, AT + int(rows.argmax()), None),
        *(float(rows.max()), 4.4, 0.1, 90.0, None, outcome),
    )
    incident = DetectedIncident(
        *("eval_loss_rise", AT, None, found.peak_step, None, outcome, 5.0, False, 0, False),
        (found,),
        title="evaluation-loss rise",
    )
    return Case(run, incident, (incident,))


def test_an_evaluation_loss_that_rises_alone_is_told_as_what_it_is(tmp_path: Path) -> None:
    other = 4.4 + noise(0.0001, seed=5)
    other[AT:] = np.geomspace(5, 648, STEPS - AT)
    case = on_eval(tmp_path / "run", other, "diverged")
    assert summary(case).startswith("evaluation-loss rise at step 300: eval_loss 4.4 → 648 (147×), diverged")
    assert summary(case).endswith("; the loss did not move")
    seen = observed(case)["loss.eval_rise"]
    assert seen.text == "eval_loss 648 at step 499, baseline 4.4 (147×), while the loss did not move"
    by_key = {s.key: s for s in symptoms(case)}
    assert by_key["peak_loss"].label == "peak eval_loss" and by_key["peak_loss"].value == pytest.approx(648)


def test_a_watch_line_names_the_column_and_the_way_back(tmp_path: Path) -> None:
    other = 4.4 + noise(0.02, seed=5)
    other[-8:] = 9.0
    assert "eval_loss should fall below 4.4" in watch_advice(on_eval(tmp_path / "up", other, "unresolved"))
    other[-2:] = 4.39
    assert "eval_loss is below 4.4" in watch_advice(on_eval(tmp_path / "back", other, "unresolved"))


def test_the_peak_is_the_highest_row_beyond_the_reach_of_a_rule() -> None:
    loss = 2.3 + noise(0.01, 2000, seed=6)
    loss[500:] += np.linspace(1.0, 4.0, 1500)
    (incident,) = find_incidents(telemetry(loss=loss))
    assert incident.peak_step == 500 + int(loss[500:].argmax()) > 1_500


def test_a_spike_of_one_row_is_settled_in_the_next(tmp_path: Path) -> None:
    one, slow = healthy()["loss"], healthy()["loss"]
    one[AT] += 3
    slow[AT:] += 3 * np.geomspace(1, 1e-3, STEPS - AT) ** 4
    slow[AT + 1 :] -= 0.9 * (slow[AT + 1 :] - healthy()["loss"][AT + 1 :])
    norm = healthy()["grad_norm"]
    assert "loss.one_row" in observed(case_of(tmp_path / "a", loss=one, grad_norm=norm))
    assert "loss.one_row" not in observed(case_of(tmp_path / "b", loss=slow, grad_norm=norm))
