"""Logs that say little: what can be told is told, and what cannot is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.diff import diff_runs, render
from postmortem.run import Run
from postmortem.sources import open_run

N = 600


def log(path: Path, loss: np.ndarray, first: int = 0, every: int = 1) -> Run:
    rows = "".join(f"{first + every * i},{value!r}\n" for i, value in enumerate(loss.tolist()))
    path.write_text(f"step,loss\n{rows}")
    return open_run(path)


def loss(seed: int, n: int = N) -> np.ndarray:
    return 2.0 + 2 * np.exp(-np.arange(n) / 60) + 0.02 * np.random.default_rng(seed).standard_normal(n)


def test_step_and_loss_are_enough_for_a_verdict(tmp_path: Path) -> None:
    d = diff_runs(log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", loss(2)))
    assert d.verdict == "equivalent" and d.divergence is not None and d.divergence.kind == "unknown"
    assert d.alignment is None and d.gap("batch") is None
    told = " ".join(d.cannot_tell)
    for what in ("by step only", "the parameters", "effective config", "code", "packages", "environment", "rollbacks"):
        assert what in told


def test_equal_logs_are_identical(tmp_path: Path) -> None:
    assert diff_runs(log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", loss(1))).verdict == "identical"


def test_one_wrong_point_is_the_log_s(tmp_path: Path) -> None:
    wrong = loss(1)
    wrong[300] += 0.5
    d = diff_runs(log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", wrong))
    assert d.divergence is not None and (d.divergence.step, d.divergence.kind) == (300, "log_only")


def test_a_spike_is_recovered_and_a_shift_is_not(tmp_path: Path) -> None:
    spiked = loss(2)
    spiked[300:330] += 3.0
    lasting = spiked.copy()
    lasting[330:] += 0.2
    a = log(tmp_path / "a.csv", loss(1))
    d = diff_runs(a, log(tmp_path / "b.csv", spiked))
    assert d.verdict == "transient" and [(r.from_step, r.what) for r in d.b.recoveries] == [(300, "incident")]
    assert d.b.recoveries[0].back_step is not None and 330 <= d.b.recoveries[0].back_step <= 345
    assert diff_runs(a, log(tmp_path / "c.csv", lasting)).verdict == "lingering"


def test_runs_that_were_apart_from_the_start_are_different(tmp_path: Path) -> None:
    other = loss(2) + 0.3
    other[300:320] += 3.0
    d = diff_runs(log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", other))
    assert d.verdict == "different" and "before anything happened" in d.reason


def test_an_end_that_is_not_finite(tmp_path: Path) -> None:
    broken = loss(1)
    broken[400:] = np.nan
    d = diff_runs(log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", broken))
    assert d.verdict == "different" and "non-finite" in d.reason and d.top_lines == ("200 losses of b are not finite",)
    assert '"NaN"' in render.to_json(d)


@pytest.mark.parametrize(("first", "every", "rows"), [(0, 10, 60), (5, 1, 595)])
def test_rows_of_another_cadence_are_matched_where_they_meet(tmp_path: Path, first: int, every: int, rows: int) -> None:
    d = diff_runs(log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", loss(1)[first::every], first, every))
    gap = d.gap()
    assert gap is not None and gap.rows == rows and gap.area == 0
    assert d.verdict != "identical" and any("rows that the other run lacks" in t or "begins" in t for t in d.top_lines)


def test_no_step_in_common(tmp_path: Path) -> None:
    d = diff_runs(log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", loss(2), first=5000))
    assert (d.verdict, d.reason) == ("different", "the runs have no step in common") and not d.gaps


def test_a_handful_of_rows(tmp_path: Path) -> None:
    d = diff_runs(log(tmp_path / "a.csv", loss(1, 6)), log(tmp_path / "b.csv", loss(2, 6)))
    assert d.verdict == "different" and "too few rows" in d.reason
    assert render.markdown(d) and render.summary(d, 80)


def test_columns_of_the_machine_do_not_count_and_unknown_ones_do(tmp_path: Path) -> None:
    def wide(name: str, mine: float, gpu: float) -> Run:
        rows = "".join(f"{i},{2 + 1 / (i + 1)!r},{mine},{gpu * i},{gpu}\n" for i in range(50))
        (tmp_path / name).write_text(f"step,loss,mine,system/gpu_memory,_runtime\n{rows}")
        return open_run(tmp_path / name)

    assert diff_runs(wide("a.csv", 1, 1), wide("b.csv", 1, 2)).verdict == "identical"
    d = diff_runs(wide("a.csv", 1, 1), wide("c.csv", 3, 1))
    assert [c.name for c in d.columns if not c.equal] == ["mine"]
    assert d.divergence is not None and d.divergence.columns == ("mine",)


def test_no_loss_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("step,lr\n" + "".join(f"{i},{i}\n" for i in range(60)))
    (tmp_path / "b.csv").write_text("step,lr\n" + "".join(f"{i},{i + (i > 30)}\n" for i in range(60)))
    d = diff_runs(open_run(tmp_path / "a.csv"), open_run(tmp_path / "b.csv"))
    assert d.verdict == "different" and "no loss in both" in d.reason
    assert d.divergence is not None and (d.divergence.step, d.divergence.kind) == (31, "other_config")


def test_further_runs_measure_the_noise(tmp_path: Path) -> None:
    a, b = log(tmp_path / "a.csv", loss(1)), log(tmp_path / "b.csv", loss(2) + 0.05)
    sibling = log(tmp_path / "c.csv", loss(3) - 0.07)
    assert diff_runs(a, b).verdict == "different"
    d = diff_runs(a, b, context=[sibling])
    gap = d.gap()
    assert d.verdict == "equivalent" and gap is not None and gap.noise.siblings == 1 and gap.noise.end > 0.06


@settings(max_examples=40)
@given(st.data())
def test_whatever_is_logged_there_is_a_verdict_and_its_mirror(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    values = st.floats(width=64) | st.sampled_from([1e308, -1e308, 0.0, 2.0, 2.0, 2.0])
    folder = tmp_path_factory.mktemp("any")
    runs = []
    for name in ("a", "b"):
        drawn = data.draw(st.lists(values, min_size=1, max_size=60))
        runs.append(log(folder / f"{name}.csv", np.array(drawn), data.draw(st.integers(0, 3))))
    there, back = diff_runs(*runs), diff_runs(*runs[::-1])
    assert there.verdict == back.verdict
    assert render.to_json(there) and render.summary(there, 40, everything=True)
    assert render.markdown(there, everything=True)
    assert diff_runs(runs[0], runs[0]).verdict == "identical"
