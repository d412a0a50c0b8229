"""What became of an incident in a replay, on runs written for the purpose."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from postmortem.detectors import DetectedIncident
from postmortem.proof.judge import (
    CURED_SHARE,
    NEAR,
    JudgedReplay,
    OutcomeJudge,
    find_first_incident,
    judge_replay,
    loss_spread,
    step_of_batch,
)
from postmortem.run import Run
from postmortem.sources import open_run
from tests.makers import noise, write_run
from tests.report.factory import spike

ROWS, ONSET = 240, 150
INCIDENT = spike().incidents[0]


def curve(**at: float) -> np.ndarray:
    """float64[ROWS] about 2.3; `s150=5.0` is the loss of step 150."""
    loss = 2.3 + noise(0.02, ROWS)
    for name, value in at.items():
        loss[int(name[1:])] = value
    return loss


def bad(at: int = ONSET, height: float = 5.0) -> np.ndarray:
    """The curve with three rows of `height` from step `at` on."""
    loss = curve()
    loss[at : at + 3] = height
    return loss


def written(folder: Path, name: str, loss: np.ndarray, **columns: object) -> Run:
    run = write_run(folder / name, {"loss": loss, **columns}, batches={"batch_index": list(range(len(loss)))})
    return open_run(run)


def judge(folder: Path, null: np.ndarray, first: int = ONSET - 5) -> OutcomeJudge:
    from dataclasses import replace

    out = written(folder, "R0", null)
    incident = replace(INCIDENT, onset_step=ONSET, peak_step=ONSET + 1)
    return OutcomeJudge.of(out, incident, first).with_reference_excess(out)


class TestYardstick:
    def test_level_and_band_are_those_of_the_rows_before(self, tmp_path: Path) -> None:
        loss = bad()
        loss[: ONSET - 100] = 9.0
        found = judge(tmp_path, loss)
        past = loss[ONSET - 100 : ONSET]
        assert found.level == np.median(past[-25:])
        assert found.band == pytest.approx(3 * 1.4826 * np.median(np.abs(np.diff(past))) / 2**0.5)
        assert found.excess == pytest.approx(3 * (5.0 - found.level - found.band), abs=0.2)

    def test_a_loss_that_still_falls_has_a_level_and_no_wider_band(self, tmp_path: Path) -> None:
        loss = bad() + 5 * np.exp(-np.arange(len(bad())) / 40)
        found, calm = judge(tmp_path, loss), judge(tmp_path / "calm", bad())
        assert found.band < 2 * calm.band and found.excess > 0

    def test_non_finite_losses_are_an_infinite_excess_and_no_baseline(self, tmp_path: Path) -> None:
        found = judge(tmp_path, curve(s100=math.nan, s101=math.inf, s150=math.nan))
        assert math.isfinite(found.level) and found.excess == math.inf

    def test_a_band_is_widened_and_never_narrowed(self, tmp_path: Path) -> None:
        found = judge(tmp_path, bad())
        assert found.with_band(1.0).band == 1.0 and found.with_band(0.0).band == found.band

    @pytest.mark.parametrize(("after", "area"), [(5.0, 0.0), (math.nan, math.inf)])
    def test_without_a_past_only_what_is_not_finite_counts(self, tmp_path: Path, after: float, area: float) -> None:
        out = write_run(tmp_path / "run", {"loss": np.full(20, after)})
        found = OutcomeJudge(0, 1, math.nan, math.nan)
        assert found.excess_area(open_run(out), 10) == area

    def test_area_ends_with_its_last_step(self, tmp_path: Path) -> None:
        run = written(tmp_path, "run", bad())
        measure = OutcomeJudge(ONSET, ONSET, 2.0, 1.0)
        assert [measure.excess_area(run, last) for last in (ONSET - 1, ONSET, ONSET + 1)] == [0.0, 2.0, 4.0]


class TestLook:
    def test_there_again(self, tmp_path: Path) -> None:
        seen = judge_replay(judge(tmp_path, bad()), written(tmp_path, "arm", bad()), 100)
        assert not seen.cured and seen.excess == 1.0
        assert seen.text == "loss spike at step 150, excess loss 100 % of R0's"

    def test_cured(self, tmp_path: Path) -> None:
        seen = judge_replay(judge(tmp_path, bad()), written(tmp_path, "arm", curve()), 100)
        assert seen.cured and seen.excess is not None and seen.excess < CURED_SHARE
        assert seen.text.startswith("no incident, excess loss ")

    def test_a_quiet_rise_that_keeps_the_excess_is_no_cure(self, tmp_path: Path) -> None:
        """No detector sees it, and a tenth of R0's area is passed."""
        risen = curve(s155=2.38, s165=2.38, s175=2.38)
        measure = judge(tmp_path, bad(height=2.45))
        seen = judge_replay(measure, written(tmp_path, "arm", risen), 100)
        assert seen.incident is None and seen.excess is not None and seen.excess > CURED_SHARE and not seen.cured
        assert seen.text.startswith("no incident detected, but excess loss ") and seen.text.endswith(
            "; the limit is 10 %"
        )

    def test_an_incident_just_before_the_onset_is_its_own_and_one_long_after_is_another(self, tmp_path: Path) -> None:
        measure = judge(tmp_path, bad())
        assert not judge_replay(measure, written(tmp_path, "before", bad(ONSET - 3)), 100).cured
        assert judge_replay(measure, written(tmp_path, "after", bad(ONSET + NEAR + 1)), 100).cured
        assert not judge_replay(measure, written(tmp_path, "near", bad(ONSET + NEAR)), 100).cured

    def test_where_the_data_falls_now(self, tmp_path: Path) -> None:
        measure, moved = judge(tmp_path, bad()), written(tmp_path, "arm", bad(ONSET + 41))
        assert judge_replay(measure, moved, 100, ONSET + 41).excess == pytest.approx(1.0, abs=0.01)
        assert not judge_replay(measure, moved, 100, ONSET + 41).cured
        assert judge_replay(measure, written(tmp_path, "stayed", bad()), 100, ONSET + 41).cured

    @pytest.mark.parametrize(("null", "arm", "cured"), [(math.nan, 2.3, True), (5.0, math.nan, False)])
    def test_non_finite_on_one_side(self, tmp_path: Path, null: float, arm: float, cured: bool) -> None:
        seen = judge_replay(judge(tmp_path, bad(height=null)), written(tmp_path, "arm", bad(height=arm)), 100)
        assert seen.cured is cured and seen.excess in (0.0, 1.0)

    def test_a_spike_where_the_loss_was_not_a_number_is_less_and_no_cure(self, tmp_path: Path) -> None:
        seen = judge_replay(judge(tmp_path, bad(height=math.nan)), written(tmp_path, "arm", bad()), 100)
        assert (seen.outcome, seen.cured) == ("finite", False)
        assert judge_replay(judge(tmp_path, bad()), written(tmp_path, "worse", bad()), 100).outcome == "persists"

    def test_where_r0_has_no_excess_the_detectors_alone_decide(self, tmp_path: Path) -> None:
        seen = judge_replay(judge(tmp_path, bad(height=0.5)), written(tmp_path, "arm", bad()), 100)
        assert seen.excess is None and not seen.cured and seen.text == "loss spike at step 150"

    def test_exactly_a_tenth_is_cured(self) -> None:
        assert (
            JudgedReplay(None, CURED_SHARE, finite=False).cured
            and not JudgedReplay(None, math.nextafter(CURED_SHARE, 1), finite=False).cured
        )


class TestFirstIncident:
    def test_bounds_are_inclusive(self, tmp_path: Path) -> None:
        run = written(tmp_path, "run", bad())
        assert find_first_incident(run, ONSET, ONSET, 0) is not None
        assert find_first_incident(run, ONSET + 1, 200, 0) is None and find_first_incident(run, 0, ONSET - 1, 0) is None

    def test_the_earliest_not_the_worst(self, tmp_path: Path) -> None:
        loss = bad(height=3.5)
        loss[ONSET + 30 : ONSET + 33] = 9.0
        found = find_first_incident(written(tmp_path, "run", loss), 100, 200, 0)
        assert found is not None and found.onset_step == ONSET

    def test_what_came_before_does_not_hide_it(self, tmp_path: Path) -> None:
        """Rows that end soon after: two spikes with a high stretch between them pass for one that never came down."""
        loss = curve()[: ONSET + 20]
        loss[100:] += 0.4
        loss[ONSET : ONSET + 3] = 9.0
        found = find_first_incident(written(tmp_path, "run", loss), ONSET - 10, ONSET + 10)
        assert found is not None and (found.onset_step, found.peak_step) == (100, ONSET)

    def test_a_jump_of_the_rate_where_the_replay_began_is_its_own_doing(self, tmp_path: Path) -> None:
        rate = np.where(np.arange(ROWS) < ONSET, 1e-3, 5e-3)
        run = written(tmp_path, "run", curve(), lr=rate)
        found = find_first_incident(run, 100, 200, ONSET - 20, rate_jump_only=True)
        assert isinstance(found, DetectedIncident) and (found.kind, found.onset_step) == ("lr_discontinuity", ONSET)
        assert find_first_incident(run, 100, 200, ONSET, rate_jump_only=True) is None
        assert find_first_incident(run, 100, 200) is None, "what was done to a training is no incident by itself"


def test_the_step_of_a_batch_is_the_last_that_consumed_it(tmp_path: Path) -> None:
    batches = {"batch_index": [0, 1, 2, 1, 4]}
    run = open_run(write_run(tmp_path / "run", {"loss": np.ones(5)}, batches=batches))
    assert [step_of_batch(run, index) for index in (0, 1, 3)] == [0, 3, None]
    assert step_of_batch(open_run(write_run(tmp_path / "bare", {"loss": np.ones(5)})), 0) is None


class TestSpread:
    def test_the_largest_difference_of_nearly_all_steps(self, tmp_path: Path) -> None:
        base = curve()
        outs = [written(tmp_path, f"r{n}", base + gap) for n, gap in enumerate((0.0, 0.1, -0.3))]
        assert loss_spread(outs, 0) == pytest.approx(0.4)
        assert loss_spread(outs[:1], 0) == 0.0 and loss_spread([], 0) == 0.0 and loss_spread(outs, ROWS) == 0.0

    def test_single_steps_and_what_is_not_finite_do_not_widen_it(self, tmp_path: Path) -> None:
        one = curve(s150=40.0, s151=math.nan)
        assert loss_spread([written(tmp_path, "a", curve()), written(tmp_path, "b", one)], 0) == 0.0

    def test_only_steps_that_all_have(self, tmp_path: Path) -> None:
        short = open_run(write_run(tmp_path / "short", {"loss": np.full(10, 1.0)}, steps=range(100, 110)))
        long = open_run(write_run(tmp_path / "long", {"loss": np.full(ROWS, 3.0)}))
        assert loss_spread([long, short], 0) == 2.0 and loss_spread([long, short], 110) == 0.0
