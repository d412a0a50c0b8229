"""What departs while a run is recorded: silent on noise and trends, awake to jumps, and told once for each episode."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from postmortem.record import Recorder
from postmortem.record.alarms import Alarms
from postmortem.sources import open_run
from tests.samples import NAMES, sample


def _episodes(values: np.ndarray, name: str = "loss", alarms: Alarms | None = None) -> list[int]:
    """Steps at which something begins; rows are looked at when they ask for it, and every fifty rows."""
    alarms = alarms or Alarms()
    begun: list[int] = []
    for step, value in enumerate(values.tolist()):
        if alarms.add_row(step, {name: value}, None) or step % 50 == 49:
            begun += [told.step for _, _, some in alarms.look() for told in some]
    return begun


@pytest.mark.parametrize("seed", range(2))
def test_noise_and_a_falling_loss_begin_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = np.arange(5_000)
    loss = 2.3 + 8.0 * np.exp(-t / 60) + 0.05 * rng.standard_normal(t.size)
    norm = np.exp(0.25 * rng.standard_normal(t.size)) * (1 + 4 * np.exp(-t / 100))
    assert _episodes(loss) == [] and _episodes(norm, "grad_norm") == []
    assert _episodes(np.full(1_000, 2.5)) == []


@pytest.mark.parametrize(("name", "jump"), [("loss", 1.0), ("grad_norm", 20.0), ("update_rms", 20.0)])
def test_a_jump_is_told_at_its_step_and_once(name: str, jump: float) -> None:
    values = np.random.default_rng(0).normal(2.5, 0.05, 1_000)
    values[400:406] += jump
    assert _episodes(values, name) == [400]
    values[700] += jump
    assert _episodes(values, name) == [400, 700]


def test_a_new_level_is_told_once_and_taken_on() -> None:
    values = np.random.default_rng(0).normal(2.5, 0.05, 3_000)
    values[1_000:] += 0.5
    assert _episodes(values) == [1_000]
    values[2_100] += 2.0
    assert _episodes(values) == [1_000, 2_100], "the new level is judged by, too"


def test_an_episode_of_non_finite_rows_is_told_once_and_asks_once() -> None:
    alarms = Alarms()
    asked = [
        step
        for step in range(200)
        if alarms.add_row(step, {"loss": math.nan if step % 100 < 40 else 2.0}, ["loss"] if step % 100 < 40 else None)
        and [told.column for _, _, some in alarms.look() for told in some] == ["loss"]
    ]
    assert asked == [0, 100]


def test_rows_wait_until_one_stands_out() -> None:
    alarms, values = Alarms(), np.random.default_rng(0).normal(2.5, 0.05, 400)
    values[390] = 4.0
    asked = [
        i for i, value in enumerate(values.tolist()) if alarms.add_row(i, {"loss": value}, None) and [alarms.look()]
    ]
    assert asked[-1] == 390 and len(asked) < 60, "most rows are looked at in bulk"


def test_episodes_begin_once_and_again_after_a_calm_or_a_rollback() -> None:
    alarms = Alarms(calm=10)
    assert [step for step in range(100) if step % 40 < 20 and alarms.begins(step, "parameters")] == [0, 40, 80]
    assert alarms.begins(81, "others")
    alarms.rewind(50)
    assert alarms.begins(50, "parameters")


def test_an_alarm_opens_an_incident_and_dense_sampling(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with Recorder(tmp_path / "run", provenance=False) as rec:
        moving: list[int] = []
        for step in range(300):
            norm = float(np.exp(0.3 * rng.normal()))
            rec.log(step, loss=rng.normal(2.0, 0.02) + 4.0 * (200 <= step < 205), grad_norm=norm)
            if rec.something_moved_recently:
                moving.append(step)
    assert moving == list(range(200, 250))
    incidents = [event for event in open_run(tmp_path / "run").journal if event.event == "incident"]
    assert [(event.step, event.keys["kind"]) for event in incidents] == [(200, "loss")]
    assert 5.9 < incidents[0].keys["value"] < 6.1


def test_a_fault_of_a_detector_does_not_reach_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Alarms) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Alarms, "look", broken)
    with pytest.warns(match="ZeroDivisionError in the recorder"), Recorder(tmp_path / "run", provenance=False) as rec:
        rec.log(0, loss=math.nan)
        rec.log(1, loss=1.0)
    assert open_run(tmp_path / "run").row_steps.tolist() == [0, 1]


@pytest.mark.skipif(not NAMES, reason="the sample runs are in the repository only")
def test_recorded_runs_wake_it_seldom() -> None:
    for run in (open_run(sample(name)) for name in NAMES):
        for name in ("loss", "grad_norm"):
            series = run.series(name)
            assert series is not None
            opened = _episodes(series.value[np.isfinite(series.value)], name)
            assert len(opened) <= max(3, len(series) / 100), f"{run.id}: {name} began at {opened}"
