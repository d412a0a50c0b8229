"""A probe: what batches do to states, and what that says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

from PIL import Image

from postmortem.errors import UsageError
from postmortem.lab import make_run
from postmortem.probe.heatmap import write_probe
from postmortem.probe.measurement import REFERENCE, ProbeResult, StateProbe, judge_state, place_blame, probe_batches
from postmortem.replay.run_replay import ProgramFailed
from postmortem.sources import open_run
from tests.replay import ranks_program
from tests.replay.small import column, small_run
from tests.samples import sample

ORDINARY = [(1.0 + 0.01 * (n % 5), 4.0 + 0.1 * (n % 3)) for n in range(REFERENCE)]


@pytest.fixture(scope="module")
def spike() -> ProbeResult:
    return probe_batches(open_run(sample("19-spike-001")), (310, 314))


@pytest.mark.bits
def test_the_figures_are_those_of_the_run(tmp_path: Path) -> None:
    """The state before step 20 meets batch 20 as the run did."""
    run = make_run(tmp_path / "run", steps=40, checkpoint_every=20)
    (state,) = probe_batches(open_run(run), (20, 21), [20]).states
    assert state.loss == (column(run, "loss", 20),)
    assert state.grad_norm == (column(run, "grad_norm", 20),)


def test_bad_data_is_bad_in_every_state(spike: ProbeResult) -> None:
    assert [state.step for state in spike.states] == [200, 300, 400]
    assert all(state.bad == (312,) and not state.broken for state in spike.states)
    assert (
        spike.blame == "data" and "batch 312 is bad in every probed state, before steps 200, 300 and 400" in spike.text
    )
    assert spike.reference == (294, 310)


def test_a_rate_that_jumps_leaves_every_batch_ordinary() -> None:
    found = probe_batches(open_run(sample("20-run-002")), (699, 703), [600, 700])
    assert found.blame == "state" and "the data alone do not cause it" in found.text


def test_a_state_of_nan_is_not_asked() -> None:
    found = probe_batches(open_run(sample("20-run-004")), (904, 907), [900, 1000])
    assert [state.broken for state in found.states] == [False, True]
    assert found.states[0].bad == (905,) and math.isnan(found.states[0].grad_norm[1] or 0.0)
    assert "the state before step 1000 left out" in found.text


class TestVerdict:
    def judge(self, *figures: tuple[float, float]) -> StateProbe:
        return judge_state(7, (20, 20 + len(figures)), [*figures, *ORDINARY])

    def test_the_loss_or_the_gradient_is_enough(self) -> None:
        assert self.judge((1.0, 4.0), (2.0, 4.0), (1.0, 40.0), (math.nan, 4.0), (1.0, math.inf)).bad == (21, 22, 23, 24)
        assert self.judge((0.2, 0.1), (1.05, 7.9)).bad == (), "an easy batch, and one within twice the usual gradient"

    def test_what_is_not_measured_is_not_judged(self) -> None:
        state = judge_state(7, (20, 21), [(5.0, None), *((loss, None) for loss, _ in ORDINARY)])
        assert state.bad == (20,) and state.usual_grad_norm is None and not state.broken

    def test_it_takes_both(self) -> None:
        blame, text = place_blame((20, 22), [self.judge((1.0, 4.0), (3.0, 4.0)), self.judge((1.0, 4.0), (1.0, 4.0))])
        assert blame == "interaction" and "batch 21 is bad in the state before step 7" in text

    def test_one_state_alone_cannot_tell(self) -> None:
        blame, text = place_blame((20, 21), [self.judge((3.0, 4.0))])
        assert blame == "undecided" and "a second state would show" in text
        assert place_blame((20, 21), [self.judge((1.0, 4.0))])[0] == "undecided"

    def test_nor_can_none(self) -> None:
        broken = judge_state(7, (20, 21), [(math.nan, math.nan)] * (1 + REFERENCE))
        assert broken.broken and broken.bad == ()
        assert place_blame((20, 21), [broken])[0] == "undecided"


def test_the_nearest_checkpoints_are_asked_and_the_reference_never_leaves_the_data(tmp_path: Path) -> None:
    run = open_run(small_run(tmp_path / "run"))
    seen: list[tuple[int, int]] = []
    found = probe_batches(run, (5, 7), trusted=True, on_measure=lambda done, total: seen.append((done, total)))
    assert [state.step for state in found.states] == [4, 8] and found.reference == (7, 7 + REFERENCE)
    assert seen[-1] == (2 * (2 + REFERENCE),) * 2 and len(seen) == seen[-1][1]
    scratch = probe_batches(run, (5, 7), [0], trusted=True)
    assert scratch.states[0].loss[0] is not None


def test_the_state_is_not_trained_by_being_asked(tmp_path: Path) -> None:
    """This program offers no `measure`: a step is taken and undone."""
    run = open_run(small_run(tmp_path / "run"))
    forward, backward = probe_batches(run, (4, 9), [4], trusted=True), probe_batches(run, (8, 9), [4], trusted=True)
    assert forward.states[0].loss[-1] == backward.states[0].loss[0]


def test_files(tmp_path: Path, spike: ProbeResult) -> None:
    picture = write_probe(spike, tmp_path / "deep" / "probe")
    told = json.loads((picture.parent / "310-314.json").read_text(), parse_constant=pytest.fail)
    assert told["blame"] == "data" and len(told["states"]) == 3 and len(told["states"][0]["loss"]) == 4
    with Image.open(picture) as image:
        assert image.width == 990 and image.height > 200
        assert len(image.convert("RGB").getcolors(100_000) or ()) > 10


def test_a_picture_of_nothing_finite(tmp_path: Path) -> None:
    state = judge_state(3, (0, 2), [(math.nan, None)] * (2 + REFERENCE))
    write_probe(ProbeResult("run", (0, 2), (2, 18), (state,), "undecided", ""), tmp_path)
    with Image.open(tmp_path / "0-2.png") as image:
        assert image.width == 990


def test_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(small_run(tmp_path / "run"))
    with pytest.raises(UsageError, match="--trust"):
        probe_batches(run, (5, 7))
    with pytest.raises(UsageError, match="no complete checkpoint of step 5"):
        probe_batches(run, (5, 7), [5], trusted=True)
    with pytest.raises(UsageError, match="has more than 10000 batches"):
        probe_batches(run, (0, 20_000), trusted=True)

    def failing(self: object, batch: object) -> None:
        raise RuntimeError("no such shard")

    monkeypatch.setattr(ranks_program.Sharded, "step", failing)
    with pytest.raises(
        ProgramFailed, match="failed on batch 5 in the state before step 4: RuntimeError: no such shard"
    ):
        probe_batches(run, (5, 7), trusted=True)
