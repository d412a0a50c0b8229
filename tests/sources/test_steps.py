"""The steps of logs that do not simply count them, and logs of several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem.errors import UnreadableInput, UsageError
from postmortem.run import Run
from postmortem.sources import SeveralRuns, open_run
from tests.sources.helpers import losses, write

Row = dict[str, object]


def _read(tmp_path: Path, rows: Sequence[Row], mapping: dict[str, str] | None = None) -> Run:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    return open_run(write(tmp_path, "x.csv", "\n".join(lines) + "\n"), mapping)


def _one_run(run: Run, rows: Sequence[Row], column: str = "loss") -> None:
    """Every row is there, in order, and none is of a resume."""
    loss = run.series("loss")
    assert loss is not None and loss.value.tolist() == [row[column] for row in rows]
    assert len(run.segments) == 1 and not any("resume" in note for note in run.notes)


def _loss(row: int) -> float:
    return round(2.0 + 5.0 / (1 + row / 10) + 0.01 * (row * 7 % 5), 4)


@pytest.mark.parametrize("name", ["epoch", "Epoch", "train/epoch"])
def test_epochs_are_steps_where_nothing_else_counts(tmp_path: Path, name: str) -> None:
    rows: list[Row] = [{name: t, "train_loss": _loss(t), "val_loss": 3.0} for t in range(20)]
    run = _read(tmp_path, rows)
    _one_run(run, rows, "train_loss")
    assert run.row_steps.tolist() == list(range(20)) and f"column {name} is read as the step" in run.notes[0]
    assert name not in run.other_columns


def test_padded_headers_and_the_parts_of_a_loss(tmp_path: Path) -> None:
    text = (
        "               epoch,      train/box_loss,       val/box_loss,  x/lr0\n" + "0,0.5,0.6,0.01\n1,0.4,0.5,0.01\n"
    )
    run = open_run(write(tmp_path, "results.csv", text))
    assert run.row_steps.tolist() == [0, 1] and run.columns == ("loss", "eval_loss", "lr")


@pytest.mark.parametrize("epochs", [[t / 8 for t in range(40)], [t // 8 for t in range(40)]])
def test_rows_are_counted_where_epochs_do_not_count_them(tmp_path: Path, epochs: list[float]) -> None:
    rows: list[Row] = [{"epoch": epoch, "loss": _loss(t)} for t, epoch in enumerate(epochs)]
    run = _read(tmp_path, rows)
    _one_run(run, rows)
    assert run.row_steps.tolist() == list(range(40)) and "its steps are the order of its rows" in run.notes[0]


@pytest.mark.parametrize(
    ("first_epoch", "first_step", "stride"), [(0, 0, 1), (1, 0, 1), (1, 1, 1), (1, 50, 50), (0, 3, 7)]
)
def test_a_step_that_begins_again_in_each_epoch(tmp_path: Path, first_epoch: int, first_step: int, stride: int) -> None:
    rows: list[Row] = [
        {"epoch": first_epoch + epoch, "iter": first_step + i * stride, "loss": _loss(epoch * 20 + i)}
        for epoch in range(6)
        for i in range(20)
    ]
    run = _read(tmp_path, rows)
    _one_run(run, rows)
    assert run.row_steps.tolist() == [first_step + row * stride for row in range(120)]
    epoch = "(epoch − 1)" if first_epoch else "epoch"
    assert f"its steps are {epoch} × {20 * stride} + iter, which begins again in each epoch" in "".join(run.notes)


def test_epochs_of_unequal_length_and_rows_of_an_evaluation(tmp_path: Path) -> None:
    rows = list[Row]()
    for epoch, size in enumerate((20, 20, 17, 20, 4), 1):
        rows.extend({"epoch": epoch, "iter": i, "loss": _loss(i)} for i in range(1, size + 1))
        rows.append({"epoch": epoch, "iter": 5000, "val_loss": 3.0 + epoch})
    run = _read(tmp_path, rows)
    _one_run(run, [row for row in rows if "loss" in row])
    held = run.series("eval_loss")
    assert held is not None and held.step.tolist() == [20, 40, 60, 80, 100]


def test_a_step_that_counts_on_goes_before_one_that_begins_again(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"epoch": e, "step": i, "global_step": 10 * e + i, "loss": _loss(10 * e + i)}
        for e in range(5)
        for i in range(10)
    ]
    run = _read(tmp_path, rows)
    _one_run(run, rows)
    assert run.row_steps.tolist() == list(range(50))


def test_a_resume_in_a_log_with_epochs_is_still_one(tmp_path: Path) -> None:
    steps = [*range(30), *range(20, 50)]
    run = _read(tmp_path, [{"epoch": s // 10, "step": s, "loss": _loss(i)} for i, s in enumerate(steps)])
    assert [(s.first_step, s.last_step) for s in run.segments] == [(0, 29), (20, 49)]


def test_a_resume_within_epochs_in_which_the_step_begins_again(tmp_path: Path) -> None:
    counted = [*range(35), *range(25, 60)]
    run = _read(tmp_path, [{"epoch": s // 10, "step": s % 10, "loss": _loss(i)} for i, s in enumerate(counted)])
    assert [(s.first_step, s.last_step) for s in run.segments] == [(0, 34), (25, 59)]


def test_rounds_without_a_number_are_one_run_where_the_loss_goes_on(tmp_path: Path) -> None:
    rows: list[Row] = [{"step": row % 10, "loss": _loss(row)} for row in range(57)]
    run = _read(tmp_path, rows)
    _one_run(run, rows)
    assert run.row_steps.tolist() == list(range(57)) and "10 × the round + step" in "".join(run.notes)


def test_rounds_of_unequal_length_are_told_by_the_loss(tmp_path: Path) -> None:
    steps = [i for size in (30, 33, 28, 31) for i in range(size)]
    rows: list[Row] = [{"step": s, "loss": round(9 - row / 20, 4)} for row, s in enumerate(steps)]
    run = _read(tmp_path, rows)
    _one_run(run, rows)
    assert run.row_steps[29:31].tolist() == [29, 33] and "33 × the round + step" in "".join(run.notes)


def test_restarts_are_kept_apart_where_the_loss_begins_anew(tmp_path: Path) -> None:
    run = _read(tmp_path, [{"step": t, "loss": _loss(t) + run} for run in range(5) for t in range(20)])
    assert [(s.first_step, s.discarded) for s in run.segments] == [(0, True)] * 4 + [(0, False)]
    assert losses(run) == {t: _loss(t) + 4 for t in range(20)}
    assert "the steps begin again at 0: read as 4 restarts" in "".join(run.notes)


@pytest.mark.parametrize(
    ("cells", "steps"),
    [
        (["12/900", "13/900", "14/900"], [12, 13, 14]),
        (["998", '"1,000"', '"1,002"'], [998, 1000, 1002]),
        (["12.0", "13.0", "14.0"], [12, 13, 14]),
    ],
)
@pytest.mark.parametrize("name", ["global_step/max_steps", "my counter"])
def test_steps_in_other_spellings(tmp_path: Path, name: str, cells: list[str], steps: list[int]) -> None:
    run = _read(tmp_path, [{name: cell, "loss": 1.0} for cell in cells], {"step": name})
    assert run.row_steps.tolist() == steps


def test_fractions_lose_against_whole_numbers(tmp_path: Path) -> None:
    for names in (("update", "num_updates"), ("iters", "train/step")):
        rows: list[Row] = [{names[0]: t / 70, names[1]: 5 * t, "loss": _loss(t)} for t in range(1, 40)]
        run = _read(tmp_path, rows)
        assert run.row_steps.tolist() == [5 * t for t in range(1, 40)]
        assert f"step is read from column {names[1]}, not {names[0]}" in "".join(run.notes)


def test_a_constant_counts_nothing(tmp_path: Path) -> None:
    rows: list[Row] = [{"num_steps": 5000, "step_count": t, "loss": _loss(t)} for t in range(20)]
    assert _read(tmp_path, rows).row_steps.tolist() == list(range(20))


def test_what_is_declared_is_not_doubted(tmp_path: Path) -> None:
    rows: list[Row] = [{"update": t / 2, "num_updates": t, "loss": _loss(t)} for t in range(20)]
    assert _read(tmp_path, rows, {"step": "update"}).row_steps.tolist() == list(range(10))


@pytest.mark.parametrize("name", ["model", "run_id", "seed", "fold", "trial", "architecture", "split"])
@pytest.mark.parametrize("order", ["below", "between"])
def test_logs_of_several_runs_are_told_apart_by_name(tmp_path: Path, name: str, order: str) -> None:
    rows: list[Row] = [{name: f"b{run}", "step": t, "loss": _loss(t) + run} for run in range(3) for t in range(30)]
    if order == "between":
        rows.sort(key=lambda row: int(str(row["step"])))
    with pytest.raises(SeveralRuns, match=rf"3 runs in one log, by column {name}: b0, b1, b2. .*--run b0") as caught:
        _read(tmp_path, rows)
    run = caught.value.read("b1")
    alone = [row for row in rows if row[name] == "b1"]
    assert run.id == "b1" and run.steps().tolist() == [row["step"] for row in alone]
    assert losses(run) == {row["step"]: row["loss"] for row in alone}
    with pytest.raises(UsageError, match=r"--run b3: .* has no run of this name. It has: b0, b1, b2"):
        caught.value.read("b3")


def test_epochs_of_several_folds_are_told_apart_by_name(tmp_path: Path) -> None:
    rows: list[Row] = [{"fold": f, "epoch": t, "loss": _loss(t) + f / 9} for f in range(1, 6) for t in range(12)]
    with pytest.raises(SeveralRuns, match="5 runs in one log, by column fold: 1, 2, 3, 4, 5") as caught:
        _read(tmp_path, rows)
    assert losses(caught.value.read("2")) == {t: _loss(t) + 2 / 9 for t in range(12)}


def test_epochs_of_training_and_validation_are_told_apart_by_name(tmp_path: Path) -> None:
    rows: list[Row] = [{"epoch": t, "phase": p, "loss": _loss(t)} for t in range(12) for p in ("train", "val")]
    with pytest.raises(SeveralRuns, match="2 runs in one log, by column phase: train, val"):
        _read(tmp_path, rows)
    labels: list[Row] = [{"epoch": t // 10, "bucket": f"b{t % 2}", "loss": _loss(t)} for t in range(60)]
    _one_run(_read(tmp_path, labels), labels)


@pytest.mark.parametrize("steps", [range(60), [*range(40), *range(31, 60)]])
def test_a_name_that_changes_within_a_run_is_no_other_run(tmp_path: Path, steps: Sequence[int]) -> None:
    rows: list[Row] = [{"run": "a" if i < 40 else "b", "step": s, "loss": _loss(i)} for i, s in enumerate(steps)]
    assert len(_read(tmp_path, rows).segments) == (1 if len(steps) == 60 else 2)


def test_a_label_of_each_batch_is_no_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows: list[Row] = [
        {"step": s, "task": f"t{rng.integers(3)}", "loss": _loss(s)} for s in rng.permutation(60).tolist()
    ]
    assert len(losses(_read(tmp_path, rows))) == 60


@pytest.mark.parametrize(
    "row",
    [
        lambda i: {"Name": f"run-{i}", "State": "finished", "Created": f"2026-05-{i + 1}", "_step": 5000, "loss": i},
        lambda i: {"Name": f"run-{i}", "State": "finished", "Created": f"2026-05-{i + 1}", "_step": i, "loss": i},
        lambda i: {"run_id": f"{i:x}", "lr": 0.1, "step": 100 - i % 3, "loss": i},
        lambda i: {"model": f"m{i // 2}", "seed": i % 2, "step": 100, "loss": i},
    ],
)
def test_a_table_of_runs_is_refused_as_one(tmp_path: Path, row: Callable[[int], Row]) -> None:
    with pytest.raises(UnreadableInput, match="a table of 12 runs, one row each"):
        _read(tmp_path, [row(i) for i in range(12)])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), writers=st.integers(2, 4))
def test_rows_of_several_writers_are_never_merged(tmp_path: Path, seed: int, writers: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[Row] = [{"step": t, "loss": _loss(t) + w} for w in range(writers) for t in range(30)]
    shuffled = [rows[i] for i in rng.permutation(len(rows)).tolist()]
    with pytest.raises(UnreadableInput, match=r"rows have a step that another row has already.*--map rank="):
        _read(tmp_path, shuffled)
