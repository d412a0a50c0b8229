"""Logs of several losses: the total is found by name or guessed from values, or no loss is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from postmortem.run import Run
from postmortem.series import Values
from postmortem.sources import open_run
from tests.sources.helpers import losses, write


def _read(tmp_path: Path, columns: Mapping[str, Values], name: str = "x.csv") -> Run:
    rows = zip(*columns.values(), strict=True)
    lines = ["step," + ",".join(columns), *(f"{t}," + ",".join(f"{v:.4f}" for v in row) for t, row in enumerate(rows))]
    return open_run(write(tmp_path, name, "\n".join(lines) + "\n"))


def _parts(seed: int, rows: int = 40) -> list[Values]:
    rng = np.random.default_rng(seed)
    return [np.exp(-np.arange(rows) / 30) * scale + rng.normal(0, 0.01, rows) for scale in (1.0, 2.0, 0.5)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("place", range(4))
def test_the_sum_of_the_others_is_guessed_to_be_the_loss(tmp_path: Path, seed: int, place: int) -> None:
    parts = _parts(seed)
    columns = {f"train/{n}_loss": part for n, part in zip(("box", "cls", "dfl"), parts, strict=True)}
    named = list(columns.items())
    named.insert(place, ("train/det_loss", np.sum(parts, axis=0)))
    run = _read(tmp_path, dict(named))
    assert run.origin("loss").endswith("train/det_loss")
    assert "guessed, because it is the sum of" in "".join(run.notes)


@pytest.mark.parametrize("seed", range(5))
def test_without_a_total_no_part_is_the_loss(tmp_path: Path, seed: int) -> None:
    for names in (
        ("box_loss", "cls_loss", "dfl_loss"),
        ("loss_G", "loss_D", "loss_cycle"),
        ("mlm_loss", "nsp_loss", "x_loss"),
    ):
        run = _read(tmp_path, dict(zip(names, _parts(seed), strict=True)))
        assert run.series("loss") is None and set(names) <= set(run.other_columns)
        (note,) = run.notes
        assert all(name in note for name in names) and f"--map loss={names[0]}" in note
    assert losses(open_run(tmp_path / "x.csv", {"loss": "nsp_loss"}))


def test_one_loss_under_two_names_is_that_loss(tmp_path: Path) -> None:
    (first, *_) = _parts(0)
    run = _read(tmp_path, {"gen/loss_a": first, "loss_b": first})
    assert run.origin("loss").endswith("gen/loss_a") and "the same as loss_b in every row" in "".join(run.notes)


def test_a_smoothed_loss_is_the_loss_only_where_it_stands_alone(tmp_path: Path) -> None:
    raw, smooth, _ = _parts(0)
    run = _read(tmp_path, {"loss/average": smooth, "loss/current": raw})
    assert run.origin("loss").endswith("loss/current") and run.smoothed == frozenset()
    run = _read(tmp_path, {"avr_loss": smooth})
    assert run.smoothed == {"loss"} and "smoothed, by its name" in "".join(run.notes)
    header = "Step,my-ema-run - loss,my-ema-run - loss__MIN,my-ema-run - loss__MAX\n0,1,1,1\n1,2,2,2\n"
    assert open_run(write(tmp_path, "w.csv", header)).smoothed == frozenset()  # the word is the run's


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("run-train-tag-loss.csv", "loss"),
        ("run-.-tag-Loss_train.csv", "loss"),
        ("run-NAME-tag-train_loss.csv", "loss"),
        ("run-a-tag-val_loss (1).csv", "eval_loss"),
        ("run-a_b-tag-grad-norm_grad-norm.csv", "grad_norm"),
        ("run-x-tag-Train_Samples_lr.csv", "lr"),
        ("run-x-tag-lr-AdamW.csv", "lr"),
        ("run-x-tag-lm-loss-training_lm loss.csv", "loss"),
        ("train_loss.csv", "loss"),
    ],
)
def test_the_download_of_tensorboard_has_its_tag_in_its_name(tmp_path: Path, name: str, canonical: str) -> None:
    text = "Wall time,Step,Value\n" + "".join(f"170000000{t}.5,{10 * t},{3 - t / 10}\n" for t in range(5))
    run = open_run(write(tmp_path, name, text))
    series = run.series(canonical)
    assert run.source == "TensorBoard CSV" and series is not None and series.step.tolist() == [0, 10, 20, 30, 40]
    assert run.columns == (canonical, "time")


def test_an_unknown_tag_is_said_to_be_unknown(tmp_path: Path) -> None:
    path = write(tmp_path, "run-a-tag-kl_loss.csv", "Wall time,Step,Value\n1700000000.5,0,1.5\n1700000001.5,1,1.25\n")
    run = open_run(path)
    assert run.other_columns == ("Value",) and "--map loss=Value" in "".join(run.notes)
    assert losses(open_run(path, {"loss": "Value"})) == {0: 1.5, 1: 1.25}
