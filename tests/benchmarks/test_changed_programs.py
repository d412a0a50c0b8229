"""The bench of changed programs: the programs are what their names say, and a fault branched off its twin is exact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.changed import judge, training
from benchmarks.changed.families import FAMILIES, TRAININGS, Family, Training
from benchmarks.changed.programs import MixedLoader, build_changed
from benchmarks.changed.training import CLEAN, Rows, plan_of, read_truth, train, write
from postmortem.lab import list_faults
from postmortem.lab.data import Loader
from postmortem.panels import panels
from postmortem.run.columns import CLOCKS
from postmortem.sources import open_run
from postmortem.training_loop import Row, drive

STEPS, SEED = 20, 7


def small(name: str) -> Training:
    """The training of this name, in few steps."""
    return Training(STEPS, TRAININGS[name].changes, TRAININGS[name].too_high)


def rows_of(name: str) -> list[Row]:
    """The metrics of a clean run, in few steps."""
    rows = Rows()
    drive(build_changed(plan_of(small(name), SEED, CLEAN).config), STEPS, rows=rows)
    return [row for _, _, row in rows.attempts[0]]


def written(rows: Rows) -> list[str]:
    """The rows as text without clocks: in a text, a NaN is equal to itself."""
    return [
        repr((number, step, facts, {name: value for name, value in row.items() if name not in CLOCKS}))
        for number, attempt in enumerate(rows.attempts)
        for step, facts, row in attempt
    ]


def test_sgd_is_that_of_torch() -> None:
    program = build_changed(plan_of(small("sgd"), SEED, CLEAN).config)
    twins = [parameter.detach().clone() for parameter in program._arena.parameters]
    theirs = torch.optim.SGD(twins, lr=0.0, momentum=0.9)
    for _ in range(5):
        measured = program.step(program.batch(program.position))
        for twin, parameter in zip(twins, program._arena.parameters, strict=True):
            twin.grad = parameter.grad.clone()
        theirs.param_groups[0]["lr"] = measured.metrics["lr"]
        theirs.step()
    for twin, parameter in zip(twins, program._arena.parameters, strict=True):
        torch.testing.assert_close(twin, parameter.detach(), rtol=1e-5, atol=1e-7)


def test_the_update_rms_of_lion_is_constant_and_only_adam_has_second_moments() -> None:
    rows = rows_of("lion")
    steady = np.array([row["update_rms"] for row in rows[10:]])
    assert np.ptp(steady) < 0.01 and 0.9 < steady.mean() <= 1.0
    assert "adam_v_norm" not in rows[0]
    assert "adam_v_norm" in rows_of("adamw")[0]


def test_lion_writes_a_nan_into_its_parameter() -> None:
    program = build_changed(plan_of(small("lion"), SEED, CLEAN).config)
    program._arena.grad[3] = float("nan")
    program._lion(0.1)
    assert program._arena.flat.isnan().nonzero().flatten().tolist() == [3]


def test_the_ramp_is_the_weight_of_the_loss_and_all_tokens_begin_at_ln_v() -> None:
    changes = TRAININGS["ramped"].changes
    assert changes["optimizer.ramp"] <= 0.15 * TRAININGS["ramped"].steps
    ramped = plan_of(small("ramped"), SEED, CLEAN).config
    plain = {**ramped, "optimizer": {**ramped["optimizer"], "ramp": 0}}
    first, same = (program.step(program.batch(0)).metrics for program in map(build_changed, (ramped, plain)))
    assert first["grad_norm"] == pytest.approx(0.1 * same["grad_norm"])
    assert first["token_loss_max"] == pytest.approx(first["token_loss_p50"]) == pytest.approx(np.log(240), rel=0.01)


def test_the_word_orders_have_the_same_words_and_few_sentences_are_rare() -> None:
    config = plan_of(small("mixed"), SEED, CLEAN).config
    mixed, plain = MixedLoader(config), Loader(config)
    pairs = [
        (a.ids, b.ids) for x, y in zip(mixed._shards, plain._shards, strict=True) for a, b in zip(x, y, strict=True)
    ]
    assert all(Counter(a) == Counter(b) and a[0] == b[0] and a[-1] == b[-1] for a, b in pairs)
    assert 0.2 < np.mean([a != b for a, b in pairs]) < 0.5


@pytest.mark.parametrize("fault", ["optimizer_reset", "bit_flip", "repeated_batch"])
def test_a_fault_that_branches_off_its_twin_is_the_run_from_step_zero(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRAININGS, "small", small("lion"))
    clean, faulty = train("small", SEED, [fault])
    plan = plan_of(small("lion"), SEED, fault)
    whole = Rows()
    training.drive_plan(build_changed(plan.config), plan, whole, STEPS)
    assert written(faulty.rows) == written(whole)
    at = faulty.truth["at"]
    assert written(faulty.rows.until(at)) == written(clean.rows.until(at))
    assert written(faulty.rows) != written(clean.rows)


@pytest.mark.parametrize("fault", sorted(set(list_faults()) - {CLEAN}))
def test_besides_its_fault_a_run_is_its_twin(fault: str) -> None:
    stops = 0
    for seed in range(20):
        clean, faulty = (plan_of(TRAININGS["adamw"], seed, name) for name in (CLEAN, fault))
        ordinary = [[s for s in plan.config["data"]["streams"] if s["recipe"] == "a"] for plan in (clean, faulty)]
        assert faulty.at == clean.at and ordinary[0] == ordinary[1]
        stops += clean.stop is not None
        if fault != "optimizer_reset":
            assert faulty.stop == clean.stop
        for stream in ordinary[0]:
            assert not clean.at - 60 < stream["first"] + stream["batches"] < clean.at + 100
    assert 0 < stops < 20


def test_only_the_log_of_a_logging_artifact_differs_from_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAININGS, "small", small("sgd"))
    clean, faulty = train("small", SEED, ["logging_artifact"])
    rows = [[row for _, _, row in run.rows.attempts[0]] for run in (clean, faulty)]
    differ = [step for step, (a, b) in enumerate(zip(*rows, strict=True)) if a != b]
    onset, count = faulty.truth["onset_step"], faulty.truth["parameters"]["rows"]
    assert differ == list(range(onset, onset + count))
    assert all({**rows[0][step], "loss": 0.0} == {**rows[1][step], "loss": 0.0} for step in differ)


def test_a_family_is_written_as_it_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAININGS, "small", small("sgd"))
    _, faulty = train("small", SEED, ["optimizer_reset"])
    sparse, wordless = tmp_path / "a-7", tmp_path / "b-7"
    write(faulty, Family("small", "", every=10), sparse, "c0de")
    write(faulty, Family("small", "", without=frozenset({"vocab", "vocab_size"})), wordless, "c0de")
    assert open_run(sparse).row_steps.tolist() == [0, 10]
    run = open_run(wordless)
    assert run.row_steps.tolist() == list(range(STEPS))
    assert run.vocab() is None and run.manifest.vocab_size is None and "vocab" not in run.manifest.config["data"]
    assert open_run(sparse).manifest.vocab_size == 240
    resume = next(event for event in run.journal if event.event == "resume")
    assert resume.keys["from_step"] == faulty.truth["onset_step"]
    assert read_truth(sparse)["code"] == "c0de"


def test_a_narrowed_run_has_the_selected_columns_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAININGS, "small", small("adamw"))
    write(next(train("small", SEED, [])), Family("small", ""), tmp_path / "none-7", "")
    run = open_run(tmp_path / "none-7")

    def columns(selection: str) -> set[str]:
        return set(judge.narrowed(run, judge.columns_of(selection)).columns) - {"time"}

    everything, few = set(run.columns) - {"time"}, {"loss", "grad_norm", "lr"}
    assert columns("all") == everything and columns("few") == few
    assert columns("few+weights") == few | {c for c in everything if c.startswith(("param_norm", "update_rms"))}
    for panel in panels():
        added, left = columns(f"few+{panel.slug}"), columns(f"all-{panel.slug}")
        assert few <= added and added - few == everything - left - few


def test_each_selection_is_of_a_panel_that_exists() -> None:
    slugs = {panel.slug for panel in panels()}
    assert {selection[4:].strip("+-") for selection in judge.selections()} - {"", *slugs} == set()


@pytest.mark.parametrize(
    ("interval", "first", "begins"),
    [(None, 105, True), (None, 106, False), ((90, 100), 100, True), ((101, 111), 111, True), ((105, 115), 115, False)],
)
def test_an_incident_begins_where_the_fault_does(interval: Any, first: int, begins: bool) -> None:
    assert judge.begins_at(interval, first, 100) is begins


def test_each_family_logs_a_training_within_the_limit() -> None:
    assert {family.training for family in FAMILIES.values()} == set(TRAININGS)
    assert all(training.steps <= 600 for training in TRAININGS.values())
