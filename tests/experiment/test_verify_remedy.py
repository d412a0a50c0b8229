"""The run with its remedy in it, and the band that is measured where bits cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.change import Change
from postmortem.diagnosis import Verification, VerificationCheck
from postmortem.experiment.target import ExperimentTarget, find_target
from postmortem.experiment.verify_remedy import replay_with_remedy, with_measured_band
from postmortem.proof.judge import loss_spread
from postmortem.sources import open_run
from tests.replay.small import edited
from tests.replays import AT, Driver

UNTIL = 140
EXPECTED = Verification(
    None, 0.01, 1.0, UNTIL - 1,
    (
        VerificationCheck("loss", AT, AT, "<", 2.0, "loss below 2"),
        VerificationCheck("grad_norm", AT, AT, "<", 3.0, "norm below 3"),
        VerificationCheck("loss", AT, AT, "<", None, "loss finite"),
    ),
    "",
)  # fmt: skip


@pytest.fixture
def about(rogue_run: Path) -> ExperimentTarget:
    return find_target(rogue_run, "verify", trusted=True)


def test_the_remedy_is_driven_from_the_newest_healthy_checkpoint(about: ExperimentTarget) -> None:
    seen: list[int] = []
    result = replay_with_remedy(about, UNTIL, (Change.from_text("skip=110:111"),), lambda step, *_: seen.append(step))
    assert seen == list(range(100, UNTIL)) and result.changes == ("skip batches [110, 111)",)
    run = open_run(result.out)
    loss, was = run.series("loss"), about.run.series("loss")
    assert loss is not None and was is not None
    assert (was.at(AT) or 0) > 1.3 * (loss.at(AT) or 9)
    assert Path(result.out).parent == about.folder and about.folder.name == f"verify-{AT}"
    assert [event.keys["reason"] for event in run.journal if event.event == "rollback"] == ["verify: loss_spike"]


def test_the_band_is_the_spread_of_replays_that_nothing_tells_apart(
    in_process: Driver, about: ExperimentTarget, tmp_path: Path
) -> None:
    drifting = edited(about.run.path, tmp_path / "drifting", lambda run: run["config"].update(drifts_at=100))
    apart = find_target(drifting, "verify", trusted=True)
    found = with_measured_band(apart, EXPECTED)
    assert in_process.driven == ["R0", "noise-1", "noise-2"]
    band = loss_spread([open_run(apart.folder / name) for name in in_process.driven], 100)
    assert 0 < band < 1
    assert found.checks[0].bound == pytest.approx(2.0 + band)
    assert found.checks[1] == EXPECTED.checks[1], "what was measured of the loss says nothing of a norm"
    assert found.checks[2] == EXPECTED.checks[2] and found.epsilon == max(0.01, band)


def test_a_replay_that_fails_is_left_out_of_the_band(
    in_process: Driver, about: ExperimentTarget, tmp_path: Path
) -> None:
    failing = edited(about.run.path, tmp_path / "failing", lambda run: run["config"].update(fails_at=120))
    assert with_measured_band(find_target(failing, "verify", trusted=True), EXPECTED) == EXPECTED
    assert len(in_process.driven) == 3
