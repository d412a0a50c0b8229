"""From a run directory to a diagnosis: the worked example of the template, and one run for each known cause."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from postmortem import diagnosis
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, healthy_batches, noise, worked_example, write_checkpoints, write_run


def of(path: Path) -> diagnosis.Diagnosis:
    return diagnose(open_run(path))


def test_worked_example_has_the_symptoms_of_its_text(tmp_path: Path) -> None:
    d = of(worked_example(tmp_path / "19-spike-001"))
    worst = d.incidents[0]
    assert (worst.onset_step, worst.peak_step, worst.recovery_step, worst.outcome) == (312, 313, 360, "lingering")
    by_key = {s.key: s for s in worst.symptoms}
    assert by_key["onset_step"].value == 312
    assert by_key["pre_spike_loss"].value == pytest.approx(2.31, abs=0.005)
    assert (by_key["peak_loss"].value, by_key["peak_loss"].step) == (5.84, 313)
    assert (by_key["recovery_loss"].value, by_key["recovery_loss"].step) == (pytest.approx(3.40), 360)
    assert by_key["grad_norm"].value == 47.2
    assert "0.6" in by_key["grad_norm"].text
    assert by_key["lr"].value == pytest.approx(2.94e-4)
    assert by_key["dtype"].value == "fp32"
    assert by_key["batch_index"].value == 312
    assert "tten" in str(by_key["unusual_tokens"].value)


def test_worked_example_is_a_long_tail_batch(tmp_path: Path) -> None:
    worst = of(worked_example(tmp_path / "19-spike-001")).incidents[0]
    assert worst.hypotheses[0].cause == "long_tail_tokens"
    assert worst.verdict == "supported"
    ruled_out = {h.cause: h.ruled_out_by for h in worst.hypotheses}
    assert 2 in ruled_out["lr_discontinuity"]
    assert 11 in ruled_out["repeated_batch"]
    assert 9 in ruled_out["fp16_overflow"]
    assert worst.skip_window == (312, 313)
    assert all("tten" in [t.text for t in sample.tokens if t.marked] for sample in worst.samples)


def test_a_gradient_norm_from_another_step_says_what_it_is(tmp_path: Path) -> None:
    columns = healthy()
    columns["loss"][300:310] += 2
    columns["grad_norm"][300:303] *= (4, 9, 49)
    worst = of(write_run(tmp_path / "run", columns)).incidents[0]
    norm = next(s for s in worst.symptoms if s.key == "grad_norm")
    assert (worst.onset_step, norm.step) == (300, 302)
    assert "(largest around the spike; rolling baseline " in norm.text


def test_a_healthy_run_is_no_incident(tmp_path: Path) -> None:
    d = of(write_run(tmp_path / "run", healthy(), batches=healthy_batches()))
    assert d.verdict == "no_incident"
    assert d.incidents == ()
    assert {p.number for p in d.quiet_panels} == set(range(1, 14))


def test_no_samples_where_text_is_not_wanted(tmp_path: Path) -> None:
    run = open_run(worked_example(tmp_path / "run"))
    assert diagnose(run, text=True).incidents[0].samples
    assert diagnose(run, text=False).incidents[0].samples == ()


Batches: TypeAlias = dict[str, list[Any]]
Break: TypeAlias = Callable[[dict[str, np.ndarray], Batches], dict[str, Any]]


def _garbage(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c["loss"][300:310] = np.log(512) + noise(0.05, 10)
    for name, factor in (("token_loss_p50", 2.6), ("token_loss_p99", 1.8), ("token_loss_max", 1.6)):
        c[name][300:310] *= factor
    c["grad_norm"][300:310] *= 4
    b["source"][300:310] = ["shard-9"] * 10
    return {"vocab_size": 512}


def _repeat(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c["loss"][300:330] -= np.linspace(0.3, 1.6, 30)
    c["grad_norm"][300:330] *= 0.5
    b["batch_hash"][300:330] = [b["batch_hash"][299]] * 30
    return {}


def _lr(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c["lr"][300:] *= 20
    c["loss"][301:] += 0.8 * np.exp(-np.arange(STEPS - 301) / 60)
    return {}


def _reset(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c["adam_m_norm"][300:320] *= np.linspace(0.1, 1, 20)
    c["adam_v_norm"][300:] = 1e-3 * np.arange(STEPS - 300) / 200
    c["optimizer_step"][300:] -= 300
    c["update_rms"][300:310] = 1.0
    c["loss"][301:330] += 0.6
    return {"journal": [{"event": "resume", "step": 300, "from_step": 300}]}


def _empty(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    b["valid_labels"][300] = 0
    for name in ("loss", "grad_norm", "param_norm", "token_loss_p50", "token_loss_p99", "token_loss_max"):
        c[name][300:] = np.nan
    return {}


def _nan(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c["grad_norm"][300:] = np.nan
    c["param_norm"][300:] = np.nan
    for name in ("loss", "token_loss_p50", "token_loss_p99", "token_loss_max"):
        c[name][301:] = np.nan
    return {}


def _flip(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c["param_norm"][300:] += 9.0
    rise = np.exp(-np.arange(STEPS - 301) / 30)
    c["grad_norm"][301:] *= 1 + 9 * rise
    for name in ("loss", "token_loss_p50", "token_loss_p99", "token_loss_max"):
        c[name][301:] += 2 * rise
    return {}


def _log(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c |= {f"token_loss_{q}": n * c["loss"] + noise(0.01, seed=12) for q, n in (("p50", 0.9), ("p99", 2), ("max", 2.6))}
    c["loss"][300] *= 3
    return {}


def _overflow(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    scale = np.full(STEPS, 65536.0)
    scale[300:310] = 65536.0 / 2.0 ** np.arange(1, 11)
    scale[310:] = 64.0
    skipped = np.zeros(STEPS)
    skipped[300:310] = 1
    c["loss_scale"], c["skipped"] = scale, skipped
    c["grad_norm"][300:310] = np.inf
    c["loss"][311:360] += 1.5
    return {"dtype": "fp16"}


def _recurring(c: dict[str, np.ndarray], b: Batches) -> dict[str, Any]:
    c["lr"] = 3e-4 * np.exp(-(((np.arange(STEPS) - 250) / 80) ** 2))
    for at in (180, 225, 262, 318):
        rise = np.exp(-np.arange(30) / 8)
        c["grad_norm"][at - 20 : at] *= np.linspace(1.0, 1.4, 20)
        c["grad_norm"][at : at + 30] *= 1 + 12 * rise
        for name in ("loss", "token_loss_p50", "token_loss_p99", "token_loss_max"):
            c[name][at : at + 30] += 1.5 * rise
    return {}


CASES: dict[str, Break] = {
    "garbage_data": _garbage,
    "repeated_batch": _repeat,
    "lr_discontinuity": _lr,
    "optimizer_reset": _reset,
    "empty_labels": _empty,
    "nan_propagation": _nan,
    "bit_flip": _flip,
    "logging_artifact": _log,
    "fp16_overflow": _overflow,
    "lr_too_high": _recurring,
}


def make(cause: str, root: Path) -> Path:
    columns, batches = healthy(), healthy_batches()
    facts = CASES[cause](columns, batches)
    journal = facts.pop("journal", [])
    return write_run(root, columns, batches=batches, manifest=facts, journal=journal)


@pytest.mark.parametrize("cause", CASES)
def test_the_textbook_case_of_each_cause_is_ranked_first(cause: str, tmp_path: Path) -> None:
    worst = of(make(cause, tmp_path / "run")).incidents[0]
    assert worst.hypotheses[0].cause == cause, [(h.cause, h.score) for h in worst.hypotheses[:4]]
    assert worst.verdict == "supported"
    assert worst.root_cause.endswith(".")
    advised = [remedy.text.lower() for remedy in worst.changes if not remedy.declined]
    assert worst.lesson.partition(": ")[2].lower() in advised


@pytest.mark.parametrize("cause", CASES)
def test_a_diagnosis_survives_its_json(cause: str, tmp_path: Path) -> None:
    d = of(make(cause, tmp_path / "run"))
    file = tmp_path / "diagnosis.json"
    file.write_text(d.to_json())
    assert diagnosis.load(file).to_json() == d.to_json()


@pytest.mark.parametrize("cause", ["nan_propagation", "empty_labels"])
def test_what_never_recovers_reverts_to_a_checkpoint_from_before(cause: str, tmp_path: Path) -> None:
    root = make(cause, tmp_path / "run")
    write_checkpoints(root, {200: 1.0, 290: 1.0, 400: 1.0})
    worst = of(root).incidents[0]
    assert worst.outcome == "diverged"
    assert "290" in worst.checkpoint and not worst.passed_over
    assert any("290" in change.text for change in worst.changes)
    assert any("did not recover" in s.text for s in worst.symptoms)
    assert "nan_propagation" in [h.cause for h in worst.hypotheses[:3]]


class TestHealth:
    """No report proposes a checkpoint that nobody looked at."""

    def test_the_newest_finite_one_is_proposed_and_the_others_are_told(self, tmp_path: Path) -> None:
        root = make("nan_propagation", tmp_path / "run")
        write_checkpoints(root, {200: 1.0, 250: math.nan, 290: math.nan})
        worst = of(root).incidents[0]
        assert "200" in worst.checkpoint and worst.damaged_between == (200, 250)
        assert "step-00000290.pt is not finite: 1 element of model.w" in worst.passed_over
        assert any("step 200" in change.text for change in worst.changes)
        (shown,) = [e for e in worst.evidence if e.observation == "state.nonfinite_checkpoint"]
        assert "steps 200 to 249" in shown.text and worst.skip_window == (200, 250)

    def test_a_finite_incident_is_not_dated_by_a_broken_checkpoint(self, tmp_path: Path) -> None:
        root = worked_example(tmp_path / "run")
        write_checkpoints(root, {200: 1.0, 250: math.nan})
        worst = of(root).incidents[0]
        assert "200" in worst.checkpoint and worst.damaged_between is None and worst.skip_window[0] >= 300

    def test_none_is_healthy(self, tmp_path: Path) -> None:
        root = make("nan_propagation", tmp_path / "run")
        write_checkpoints(root, {250: math.nan, 290: math.nan})
        worst = of(root).incidents[0]
        assert worst.checkpoint == "" and worst.damaged_between is None and "290" in worst.passed_over
        assert any("from scratch" in change.text for change in worst.changes)

    def test_one_that_is_too_large_is_looked_at_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("postmortem.checkpoint.health.READ_LIMIT", 100)
        root = make("nan_propagation", tmp_path / "run")
        write_checkpoints(root, {290: 1.0})
        worst = of(root).incidents[0]
        assert "was not looked at" in worst.passed_over and f"postmortem checkpoints {root}" in worst.passed_over
        assert any("Look at step-00000290.pt" in change.text for change in worst.changes)


def test_a_rolled_back_spike_is_still_found(tmp_path: Path) -> None:
    columns = healthy(400)
    columns["loss"][350:] += 3.0
    columns["grad_norm"][350:] *= 20
    again = healthy(STEPS)
    joined = {name: np.concatenate([columns[name], again[name][300:]]) for name in columns}
    steps = np.concatenate([np.arange(400), np.arange(300, STEPS)])
    attempt = np.concatenate([np.zeros(400, int), np.ones(STEPS - 300, int)])
    worst = of(write_run(tmp_path / "run", joined, steps=steps, attempt=attempt)).incidents[0]
    assert (worst.onset_step, worst.attempt, worst.discarded) == (350, 0, True)


def test_loss_only_abstains(tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[300] += 2
    d = of(write_run(tmp_path / "run", {"loss": loss}))
    assert d.verdict == "undecided"
    assert "Not known yet" in d.incidents[0].not_known
    assert d.incidents[0].root_cause == ""
    assert "Log grad_norm, lr, batch_hash in the next run." in [remedy.text for remedy in d.incidents[0].changes]
    assert d.incidents[0].lesson.endswith(": log grad_norm, lr, batch_hash in the next run.")


def test_an_unresolved_spike_says_what_to_watch_for(tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[-5:] += 2
    worst = of(write_run(tmp_path / "run", {"loss": loss})).incidents[0]
    assert worst.outcome == "unresolved"
    assert "The loss should fall below" in worst.watch


def test_sparse_rows_give_an_onset_interval(tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[300] += 2
    worst = of(write_run(tmp_path / "run", {"loss": loss}, steps=np.arange(STEPS) * 10)).incidents[0]
    assert worst.onset_interval == (2990, 3000)


@pytest.mark.parametrize("cause", ["garbage_data", "repeated_batch"])
def test_names_of_sources_do_not_matter(cause: str, tmp_path: Path) -> None:
    columns, batches = healthy(), healthy_batches()
    facts = CASES[cause](columns, batches)
    plain = of(write_run(tmp_path / "a", columns, batches=batches, manifest=facts)).incidents[0]
    names = {name: f"\x1b[31m`{{{{x}}}}` <b>{i}" for i, name in enumerate(dict.fromkeys(batches["source"]))}
    batches["source"] = [names[s] for s in batches["source"]]
    renamed = of(write_run(tmp_path / "b", columns, batches=batches, manifest=facts)).incidents[0]
    assert [(h.cause, h.score) for h in plain.hypotheses] == [(h.cause, h.score) for h in renamed.hypotheses]
    assert "\x1b" not in renamed.root_cause


def test_the_watchdog_mode_sees_a_held_loss_and_nothing_else(tmp_path: Path) -> None:
    held = diagnose(open_run(worked_example(tmp_path / "held")), mode="watchdog")
    assert [f.detector for f in held.incidents[0].signals] == ["watchdog"]
    assert held.incidents[0].peak_step == 313
    assert diagnose(open_run(make("repeated_batch", tmp_path / "drop")), mode="watchdog").verdict == "no_incident"


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def test_no_piece_of_training_text_is_left_without_text(tmp_path: Path) -> None:
    """Panels and symptoms name tokens, too, and not only the samples."""
    d = diagnose(open_run(worked_example(tmp_path / "run")), text=False)
    assert not [text for text in _texts(json.loads(d.to_json())) if re.search(r"\btten\b", text)]
    assert "id 3" in str({s.key: s for s in d.incidents[0].symptoms}["unusual_tokens"].value)


def test_the_histogram_of_the_onset_counts_not_that_of_the_damage(tmp_path: Path) -> None:
    """The batch of the onset made the gradient; every histogram after it was read with damaged parameters."""
    root = worked_example(tmp_path / "run")
    part = root / "metrics" / "part-000000.parquet"
    table = pq.read_table(part)
    for name, factor in (("token_loss_p50", 0.9), ("token_loss_p99", 2.0), ("token_loss_max", 2.6)):
        values = table[name].to_numpy().copy()
        values[313:] = factor * table["loss"].to_numpy()[313:]
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, part)
    assert of(root).incidents[0].hypotheses[0].cause == "long_tail_tokens"


def test_one_slow_divergence_alone_proves_no_learning_rate(tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[300:] += np.minimum(0.02 * np.arange(STEPS - 300), 3.0)
    worst = of(write_run(tmp_path / "run", {"loss": loss, "lr": np.full(STEPS, 6e-4)})).incidents[0]
    assert worst.outcome in ("diverged", "unresolved")
    assert worst.verdict == "undecided"


def test_a_memorized_stretch_is_the_repeats_doing_and_recovers(tmp_path: Path) -> None:
    worst = of(make("repeated_batch", tmp_path / "run")).incidents[0]
    assert (worst.kind, worst.onset_step, worst.outcome) == ("repeated_batch", 300, "recovered")
    assert any("in 30 rows from step 300 on" in e.text for e in worst.evidence)
    assert worst.skip_window is None


def test_one_repeated_hash_beside_a_spike_is_not_believed(tmp_path: Path) -> None:
    columns, batches = healthy(), healthy_batches()
    batches["batch_hash"][300] = batches["batch_hash"][299]
    columns["loss"][301] *= 2.2
    columns["grad_norm"][300] *= 49
    worst = of(write_run(tmp_path / "run", columns, batches=batches)).incidents[0]
    assert not (worst.verdict == "supported" and worst.hypotheses[0].cause == "repeated_batch")


@pytest.mark.parametrize(("calm", "outcome"), [(False, "diverged"), (True, "lingering")])
def test_a_loss_that_turns_to_exact_zero_is_suspected(calm: bool, outcome: str, tmp_path: Path) -> None:
    columns = {name: healthy()[name] for name in ("loss", "grad_norm")}
    columns["loss"][300:] = 0.0
    if not calm:
        columns["grad_norm"][300:] = np.nan
    worst = of(write_run(tmp_path / "run", columns)).incidents[0]
    assert (worst.kind, worst.onset_step, worst.suspected, worst.outcome) == (
        "suspected_non_finite",
        300,
        True,
        outcome,
    )


def test_a_rolled_back_incident_is_not_to_be_rolled_back_again(tmp_path: Path) -> None:
    first, again = healthy(353), healthy(STEPS)
    first["loss"][350:] += 3.0
    joined = {name: np.concatenate([first[name], again[name][300:]]) for name in first}
    steps = np.concatenate([np.arange(353), np.arange(300, STEPS)])
    attempt = np.concatenate([np.zeros(353, int), np.ones(STEPS - 300, int)])
    worst = of(write_run(tmp_path / "run", joined, steps=steps, attempt=attempt)).incidents[0]
    assert worst.discarded
    assert worst.watch == ""
    assert "rolled back later" in worst.summary


def test_nan_from_the_first_row_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    worst = of(write_run(tmp_path / "run", {"loss": np.full(STEPS, np.nan)})).incidents[0]
    assert (worst.onset_step, worst.outcome, worst.verdict) == (0, "diverged", "undecided")
    assert "initialization" in worst.changes[0].text


def test_between_sparse_rows_any_batch_may_have_done_it(tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[300] += 2
    worst = of(write_run(tmp_path / "run", {"loss": loss}, steps=np.arange(STEPS) * 10)).incidents[0]
    assert worst.skip_window == (2991, 3001)
    assert worst.symptoms[1].step == 2990
