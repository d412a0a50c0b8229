"""What a null replay says by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from postmortem.detectors import DetectedIncident
from postmortem.diagnosis import Incident, Signal
from postmortem.proof.null_replay import FEW_ROWS, NullReplay, judge_null_replay
from postmortem.run.replayed import Difference, ReplayResult

COLUMNS = ("batch_hash", "grad_norm", "loss", "param_hash")
SPIKE = DetectedIncident("loss_spike", 312, None, 313, 360, "recovered", 3.0, False, 0, False, findings=())


def result(*differences: Difference, **more: Any) -> ReplayResult:
    """A null replay of 100 rows that departs as said; `departed` defaults to one row of each column."""
    facts: dict[str, Any] = {
        "out": "R0",
        "from_step": 300,
        "until": 400,
        "changes": (),
        "steps": 100,
        "compared": 100,
        "columns": COLUMNS,
        "differences": differences,
        "departed": {one.column: 1 for one in differences},
        "arithmetic": (),
        "state": "",
        "startup_s": 1.0,
        "seconds": 2.0,
    }
    return ReplayResult(**(facts | more))


def examined(*differences: Difference, found: DetectedIncident | None = None, **more: Any) -> NullReplay:
    return judge_null_replay(INCIDENT, result(*differences, **more), found, "replays/R0")


INCIDENT = Incident(
    id=1, kind="loss_spike", onset_step=312, onset_interval=None, peak_step=313, recovery_step=360, outcome="recovered",
    verdict="supported", severity=3.0, suspected=False, attempt=0, discarded=False, summary="", symptoms=(), signals=(),
    evidence=(), hypotheses=(), panels=(), root_cause="", not_known="", watch="", changes=(), verification=None,
    lesson="", skip_window=None, checkpoint="",
)  # fmt: skip
LOSS = Difference("loss", 312, 6.132, 2.626)
PARAMETERS = Difference("param_hash", 312, "aa", "bb")


class TestReproduces:
    def test_bit_for_bit(self) -> None:
        null = examined(found=SPIKE)
        assert (null.reproduces, null.cause, null.reason) == (True, "", "")
        assert null.exact and null.agreement == "bit for bit (100 rows: batch_hash, grad_norm, loss, param_hash)"
        assert (null.experiment.role, null.experiment.outcome) == ("R0", "persists")
        assert (null.experiment.run, null.experiment.steps, null.experiment.from_step) == ("replays/R0", 100, 300)

    def test_rows_that_are_the_runs_own_hold_it_whatever_a_detector_makes_of_them(self) -> None:
        carried = replace(INCIDENT, signals=(Signal("loss_spike", "loss_spike", "loss", 312, 313, 6.0, 2.6, 9.0, 360),))
        null = judge_null_replay(carried, result(), None, "replays/R0")
        assert (null.reproduces, null.detected, null.experiment.outcome) == (True, False, "persists")
        assert not judge_null_replay(carried, result(until=313), None, "R0").reproduces, "they end before its peak"
        rate = replace(INCIDENT, signals=(Signal("lr", "lr_discontinuity", "lr", 312, 312, 6.0, 2.6, 9.0, None),))
        assert not judge_null_replay(rate, result(), None, "R0").reproduces, "no compared row holds it"

    def test_with_other_arithmetic(self) -> None:
        null = examined(LOSS, found=SPIKE, arithmetic=("torch 2.8 then, 2.13 now",))
        assert null.reproduces and not null.exact
        assert null.agreement == "though not bit for bit (torch 2.8 then, 2.13 now)"

    def test_with_bits_that_part_for_no_known_reason(self) -> None:
        null = examined(replace(LOSS, step=309), replace(PARAMETERS, step=309), found=SPIKE)
        assert null.reproduces and not null.exact
        assert null.agreement == "though not bit for bit (loss differs from step 309 on)"
        assert "nothing could be compared" in examined(found=SPIKE, compared=0, columns=()).agreement


class TestTransient:
    def test_another_incident_beside_a_faulty_row_is_not_the_one(self) -> None:
        """One logged loss is wrong, and a real spike lies near: what was found there is the other one."""
        null = examined(LOSS, found=SPIKE)
        assert (null.reproduces, null.cause) == (False, "logging_artifact")

    def test_single_figures_of_a_log(self) -> None:
        null = examined(LOSS)
        assert (null.reproduces, null.cause) == (False, "logging_artifact")
        assert null.reason == (
            "only the log shows it: at step 312 it says loss 6.132, the replay measures 2.626, and the parameters are "
            "equal bit for bit at every step"
        )
        assert null.experiment.outcome == "vanished" and null.reason in null.experiment.text

    @pytest.mark.parametrize("rows", [1, FEW_ROWS])
    def test_few_rows_of_a_log_without_a_state(self, rows: int) -> None:
        null = examined(LOSS, columns=("batch_hash", "loss"), departed={"loss": rows})
        assert null.cause == "logging_artifact" and f"the other {100 - rows} rows are equal" in null.reason

    def test_a_run_that_parts_for_good(self) -> None:
        many = examined(LOSS, columns=("batch_hash", "loss"), departed={"loss": FEW_ROWS + 1})
        null = examined(Difference("loss", 313, 9.0, 2.3), PARAMETERS, departed={"loss": 80, "param_hash": 88})
        assert many.cause == null.cause == "bit_flip"
        assert "equal bit for bit until step 312" in null.reason and "(first in param_hash)" in null.reason

    def test_parameters_are_blamed_before_the_loss_of_the_same_step(self) -> None:
        assert "(first in param_hash)" in examined(LOSS, PARAMETERS).reason

    def test_figures_of_another_kind_are_no_faulty_log(self) -> None:
        assert examined(Difference("batch_hash", 350, "aa", "bb")).cause == ""

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "NaN\x1b[31m"])
    def test_words_are_harmless(self, value: float | str) -> None:
        assert "\x1b" not in examined(Difference("loss", 312, value, None)).reason


class TestNothingIsShown:
    """Neither the hardware nor the log is blamed for what was not compared."""

    def test_equal_runs(self) -> None:
        null = examined()
        assert (null.reproduces, null.cause) == (False, "") and "equals the run bit for bit" in null.reason

    def test_other_arithmetic(self) -> None:
        null = examined(PARAMETERS, arithmetic=("torch 2.8 then, 2.13 now",))
        assert null.cause == "" and "other arithmetic (torch 2.8 then, 2.13 now)" in null.reason

    def test_other_batches(self) -> None:
        null = examined(Difference("batch_hash", 310, "aa", "bb"), PARAMETERS)
        assert null.cause == "" and "the batches differ from step 310 on" in null.reason

    def test_nothing_compared(self) -> None:
        null = examined(compared=0, columns=())
        assert (null.reproduces, null.cause) == (False, "") and "nothing" in null.reason
