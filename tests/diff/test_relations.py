"""What two logs say of each other beyond a gap: a factor, a distance, a prefix, another model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.diff import RunsDiff, diff_runs, render
from postmortem.diff.columns import compare_columns
from postmortem.diff.model import Relation
from postmortem.diff.pair import Pair
from postmortem.diff.relations import FEWEST_ROWS, find_relations
from postmortem.run import Run
from postmortem.sources import open_run
from tests.makers import write_run
from tests.public_cases import REPORTS

N = 300


def curve(seed: int, n: int = N, level: float = 2.0, noise: float = 0.02) -> np.ndarray:
    return level + 2 * np.exp(-np.arange(n) / 60) + noise * np.random.default_rng(seed).standard_normal(n)


def log(path: Path, *, first: int = 0, **columns: np.ndarray) -> Run:
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    lines = (",".join(map(repr, (first + n, *row))) for n, row in enumerate(rows))
    path.write_text("\n".join([",".join(["step", *columns]), *lines]) + "\n")
    return open_run(path)


def relations(a: Run, b: Run, resumes: tuple[int, ...] = ()) -> dict[str, Relation]:
    pair = Pair(a, b)
    with np.errstate(all="ignore"):  # as in diff_runs
        return {relation.column: relation for relation in find_relations(pair, compare_columns(pair), resumes)}


def told(d: RunsDiff) -> str:
    return " ".join(d.top_lines)


@pytest.mark.parametrize("factor", [5.0, 8.0, 1 / 4])
def test_a_mean_that_was_not_divided_is_a_factor_of_loss_and_gradient(tmp_path: Path, factor: float) -> None:
    loss, norm, rate = curve(1), 1 + curve(2), np.linspace(1e-3, 1e-4, N)
    a = log(tmp_path / "a.csv", loss=np.round(loss, 4), grad_norm=np.round(norm, 3), lr=rate)
    b = log(tmp_path / "b.csv", loss=np.round(factor * loss, 4), grad_norm=np.round(factor * norm, 3), lr=rate)
    d = diff_runs(a, b)
    assert {r.column: r.form for r in d.relations} == {"loss": "factor", "grad_norm": "factor"}
    assert all(r.value == pytest.approx(factor, rel=1e-3) and r.rows == N and r.before is None for r in d.relations)
    assert "loss and grad_norm of b are" in told(d) and "at the same learning rate" in told(d)
    assert f"adds up {round(max(factor, 1 / factor))} parts" in told(d)
    assert json.loads(render.to_json(d))["relations"][0]["form"] == "factor"


def test_only_the_logged_loss_is_scaled(tmp_path: Path) -> None:
    loss, norm = curve(1), curve(2)
    d = diff_runs(
        log(tmp_path / "a.csv", loss=loss, grad_norm=norm), log(tmp_path / "b.csv", loss=4 * loss, grad_norm=norm)
    )
    assert "only the logged figure is scaled" in told(d) and "parts" not in told(d)


def test_a_few_rows_of_another_kind_do_not_hide_a_factor(tmp_path: Path) -> None:
    loss = curve(1)
    scaled = 3 * loss
    scaled[100:105] = 50.0
    scaled[200] = np.nan
    found = relations(log(tmp_path / "a.csv", loss=loss), log(tmp_path / "b.csv", loss=scaled))["loss"]
    assert found.value == pytest.approx(3) and found.form == "factor"


def test_the_batch_that_became_smaller_at_a_resume(tmp_path: Path) -> None:
    tokens = np.full(N, 4096.0)
    fewer = np.where(np.arange(N) < 200, tokens, tokens / 4)
    a = log(tmp_path / "a.csv", loss=curve(1), tokens=tokens)
    d = diff_runs(a, log(tmp_path / "b.csv", loss=curve(1) * np.where(np.arange(N) < 200, 1, 1.001), tokens=fewer))
    found = {r.column: r for r in d.relations}["tokens"]
    assert (found.value, found.from_step, found.before) == (0.25, 200, 1.0)
    shown = "\n".join(map(str, render.markdown(d).splitlines()))
    assert "tokens of b is 0.2500 times that of a from step 200 on, and equal before (100 rows)" in shown


@pytest.mark.parametrize("change", ["factor", "offset"])
def test_apart_from_a_resume_on(tmp_path: Path, change: str) -> None:
    """b repeats a's rows only about equally (another machine), and resumes at step 200 with another scale or level."""
    loss, rows = curve(1), np.arange(N)
    again = loss + 0.001 * np.random.default_rng(3).standard_normal(N)
    after = 2 * again if change == "factor" else again + 0.4 + 0.02 * np.random.default_rng(4).standard_normal(N)
    journal = [{"event": "resume", "step": 200, "from_step": 200}]
    folders = [write_run(tmp_path / "a", {"loss": loss}), tmp_path / "b"]
    write_run(folders[1], {"loss": np.where(rows < 200, again, after)}, attempt=1 * (rows >= 200), journal=journal)
    d = diff_runs(*map(open_run, folders))
    (found,) = d.relations
    assert (found.form, found.from_step, found.through_step) == (change, 200, N - 1)
    assert found.value == pytest.approx(2 if change == "factor" else 0.4, rel=0.02)
    assert found.before == pytest.approx(1 if change == "factor" else 0, abs=1e-3)
    assert "from step 200 on, where b resumed" in told(d)


@pytest.mark.parametrize(
    "other",
    [
        curve(2),
        curve(1) * (1 + 0.3 * np.random.default_rng(5).random(N)),
        curve(1, level=2.5, noise=0.2),
        curve(1) + np.linspace(0.4, 0.2, N),
        curve(1) + 0.4,
        -curve(1),
    ],
    ids=[
        "another seed",
        "a random factor",
        "noise",
        "a distance that shrinks",
        "a distance from the start",
        "another sign",
    ],
)
def test_what_is_not_constant_is_no_relation(tmp_path: Path, other: np.ndarray) -> None:
    d = diff_runs(log(tmp_path / "a.csv", loss=curve(1)), log(tmp_path / "b.csv", loss=other))
    assert d.relations == () and "times" not in told(d)


def test_two_levels_are_no_factor_though_one_is_a_multiple_of_the_other(tmp_path: Path) -> None:
    """Two trainings that have settled: each row of one is near half of the other, and knows nothing of it."""
    noise = np.random.default_rng(6).standard_normal((2, N)) * 0.01
    a, b = log(tmp_path / "a.csv", loss=4 + noise[0]), log(tmp_path / "b.csv", loss=2 + noise[1])
    assert not relations(a, b)
    assert relations(a, log(tmp_path / "half.csv", loss=np.round((4 + noise[0]) / 2, 4)))["loss"].form == "factor"


def test_a_handful_of_rows_shows_no_relation(tmp_path: Path) -> None:
    short = curve(1, FEWEST_ROWS - 1)
    assert not relations(log(tmp_path / "a.csv", loss=short), log(tmp_path / "b.csv", loss=5 * short))


@settings(max_examples=25)
@given(factor=st.floats(1.2, 1e6) | st.floats(1e-6, 0.8), seed=st.integers(0, 99), zeros=st.integers(0, 50))
def test_any_exact_factor_is_told_and_its_mirror(
    tmp_path_factory: pytest.TempPathFactory, factor: float, seed: int, zeros: int
) -> None:
    norm = np.abs(np.random.default_rng(seed).standard_normal(100)) + 0.1
    norm[100 - zeros :] = 0.0  # a rate that ended at zero is no witness against a factor
    folder = tmp_path_factory.mktemp("scaled")
    a, b = log(folder / "a.csv", grad_norm=norm), log(folder / "b.csv", grad_norm=factor * norm)
    there, back = relations(a, b)["grad_norm"], relations(b, a)["grad_norm"]
    assert there.value == pytest.approx(factor) and there.value * back.value == pytest.approx(1)


@pytest.mark.parametrize("swap", [False, True])
def test_the_first_rows_of_a_run_are_a_prefix(tmp_path: Path, swap: bool) -> None:
    whole, part = log(tmp_path / "whole.csv", loss=curve(1)), log(tmp_path / "part.csv", loss=curve(1)[:120])
    d = diff_runs(part, whole) if swap else diff_runs(whole, part)
    short, long = ("a", "b") if swap else ("b", "a")
    assert d.verdict == "prefix" and d.reason.startswith(f"{short} is the first 120 rows of {long}")


def test_what_is_almost_a_prefix_is_none(tmp_path: Path) -> None:
    whole, other = log(tmp_path / "whole.csv", loss=curve(1)), curve(1)[:120]
    later = log(tmp_path / "later.csv", first=50, loss=curve(1)[50:])
    assert diff_runs(whole, later).verdict == "different"
    other[60:] *= 1.5
    assert diff_runs(whole, log(tmp_path / "other.csv", loss=other)).verdict != "prefix"


def test_another_model_is_named_before_its_loss_is_compared(tmp_path: Path) -> None:
    rows = np.arange(N)
    small = {"loss": curve(1) + np.log(50) - 4, "param_norm/layer0": 1 + rows / N, "param_norm/layer1": 2 + rows / N}
    large = {**small, "loss": curve(2) + np.log(100) - 4, "param_norm/layer2": 2 + rows / N}
    a = write_run(tmp_path / "a", small, manifest={"vocab_size": 50})
    b = write_run(tmp_path / "b", large, manifest={"vocab_size": 100})
    d = diff_runs(open_run(a), open_run(b))
    assert d.models[0].what == "vocabulary" and len(d.models) == 3
    assert "the models are not the same" in told(d) and "vocabulary 50 in a, 100 in b" in told(d)
    assert "layer2 in b" in told(d) and "loss at step 0" in told(d)


def test_a_loss_that_begins_elsewhere_is_no_matter_of_the_optimizer(tmp_path: Path) -> None:
    a = log(tmp_path / "a.csv", loss=curve(1))
    assert "before the first update" in told(diff_runs(a, log(tmp_path / "b.csv", loss=curve(2, level=3.0))))
    assert not diff_runs(a, log(tmp_path / "c.csv", loss=curve(2))).models
    late = log(tmp_path / "late.csv", first=500, loss=curve(1))
    assert not diff_runs(late, log(tmp_path / "later.csv", first=500, loss=curve(2, level=3.0))).models


@pytest.mark.skipif(not REPORTS.is_dir(), reason="the public cases are not here")
def test_the_public_report_of_an_accumulation_that_is_not_divided() -> None:
    folder = REPORTS / "11-grad-accum-factor"
    d = diff_runs(open_run(folder / "a-ga1" / "input"), open_run(folder / "b-ga-wrong" / "input"))
    assert {r.column: f"{r.value:.3f}" for r in d.relations} == {"loss": "5.000", "grad_norm": "5.000"}
    assert "5.000 times" in told(d) and "at the same learning rate" in told(d)
    assert "a scale, not another training" in told(d) and "adds up 5 parts (accumulation steps" in told(d)
