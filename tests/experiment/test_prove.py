"""Proving: what is decided by which outcomes, on replays that are written and not driven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.assess.detection import detect_effective
from postmortem.causes import Cause
from postmortem.change import Change
from postmortem.diagnosis import Experiment, Prediction
from postmortem.errors import PostmortemError, UsageError
from postmortem.experiment.pool import FinishedReplay
from postmortem.experiment.prove import ExperimentDriver, prove
from postmortem.experiment.target import ExperimentTarget
from postmortem.proof.design import MAX_TESTS, design_experiment
from postmortem.proof.stored_proofs import Proof
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.trust import NamedProgram
from postmortem.run import Run
from postmortem.run.recorded import RecordedRun
from postmortem.run.replayed import Difference, ReplayResult
from postmortem.shown import Shown
from postmortem.sources import open_run
from tests.makers import noise, write_run
from tests.proof.test_design import HERE, PREDICTING, hypothesis, incident, of
from tests.report.factory import spike

ONSET, MOVED, START, UNTIL = 312, 353, 300, 420
World = Callable[[ReplaySpec], str]
"""What becomes of a replay: there, calm, finite, moved (the spike is where batch 353 is), or why it is not driven."""


def curve(world: str, *, broken: bool = False) -> np.ndarray:
    """float64[UNTIL]: loss of a run with a spike, or a NaN where it is `broken`, at the place that `world` says."""
    loss = 2.3 + noise(0.02, UNTIL)
    at = {"there": ONSET, "finite": ONSET, "moved": MOVED}.get(world)
    if at is not None:
        loss[at : at + 3] = np.nan if broken and world != "finite" else 5.0
    return loss


@dataclass(frozen=True)
class Written(ExperimentTarget):
    """Its replays are written as `world` says."""

    world: World = field(default=lambda spec: "there")
    arithmetic: tuple[str, ...] = ()
    broken: bool = False
    driven: list[str] = field(default_factory=list[str])

    def drive(
        self, specs: Sequence[ReplaySpec], on_done: Callable[[FinishedReplay], None] | None = None
    ) -> list[FinishedReplay]:
        every = [self._write(spec) for spec in specs]
        if on_done is not None:
            for done in every:
                on_done(done)
        return every

    def _write(self, spec: ReplaySpec) -> FinishedReplay:
        out = Path(spec.out)
        self.driven.append(out.name)
        world = self.world(spec)
        if world not in ("there", "calm", "finite", "moved"):
            return FinishedReplay(spec, None, world, 2)
        if not out.exists():
            write_run(out, {"loss": curve(world, broken=self.broken)}, batches={"batch_index": list(range(UNTIL))})
        parts = () if world == "there" and not self.arithmetic else (Difference("loss", ONSET, 5.0, 2.3),)
        return FinishedReplay(spec, replayed(spec, parts, self.arithmetic))


def replayed(spec: ReplaySpec, differences: tuple[Difference, ...], arithmetic: tuple[str, ...]) -> ReplayResult:
    return ReplayResult(
        out=spec.out,
        from_step=spec.from_step,
        until=spec.until,
        changes=(),
        steps=spec.until - spec.from_step,
        compared=100,
        columns=("batch_hash", "loss", "param_hash"),
        differences=differences,
        departed={one.column: 1 for one in differences},
        arithmetic=arithmetic,
        state="",
        startup_s=0.1,
        seconds=1.5,
    )


def bench(folder: Path, world: World, *hypotheses: Any, **more: Any) -> ExperimentDriver:
    """An experiment on a spike at 312 under these hypotheses."""
    broken = bool(more.get("broken"))
    loss = curve("there", broken=broken)
    run = write_run(folder / "run", {"loss": loss}, batches={"batch_index": list(range(UNTIL))})
    about = incident(*hypotheses)
    opened = open_run(run)
    made = Written(
        run=opened,
        diagnosis=spike(),
        incident=about,
        recorded=RecordedRun(opened),
        from_step=START,
        folder=run / "replays",
        program=None,
        trusted=False,
        announced=NamedProgram("made:build"),
        world=world,
        **more,
    )
    return ExperimentDriver(made, design_experiment(about, from_step=START))


def told(spec: ReplaySpec | Experiment) -> str:
    return ",".join(map(str, spec.changes))


def worlds(**by_change: str) -> World:
    """The incident is there but for the changes named, e.g. mask="calm"; a move is followed only where that is said."""

    def world(spec: ReplaySpec) -> str:
        name = told(spec).partition("=")[0].replace("-", "_")
        return by_change.get(name, "calm" if name == "move" else "there")

    return world


DATA = {"replace": "calm", "move": "moved"}
TAIL = worlds(**DATA, mask="calm")
RIVALS = ("long_tail_tokens", "garbage_data", "lr_too_high")


def truth_of(cause: Cause) -> World:
    """A world in which `cause` is the true one: what it does not speak of does nothing."""
    said: dict[str, str] = {}
    for one in cause.predicts(HERE):
        for change in map(str, one.changes or ("",)):
            there = "moved" if one.outcome == "follows" else "there"
            said[change] = {"cures": "calm", "finite": "finite"}.get(one.outcome, there)
    return lambda spec: said.get(told(spec), "calm" if told(spec).startswith("move") else "there")


@pytest.fixture(autouse=True)
def _each_curve_is_looked_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[bytes, Any] = {}

    def detected(run: Run) -> Any:
        loss = run.series("loss")
        assert loss is not None
        key = loss.value.tobytes()
        if key not in known:
            known[key] = detect_effective(run)
        return known[key]

    if request.cls is TestDecision:
        monkeypatch.setattr("postmortem.proof.judge.detect_effective", detected)


@pytest.mark.heavy
class TestDecision:
    @pytest.mark.parametrize("cause", PREDICTING, ids=lambda cause: cause.slug)
    def test_in_the_world_of_a_cause_it_is_confirmed_and_no_other(self, tmp_path: Path, cause: Cause) -> None:
        others = [of(one.slug) for one in PREDICTING if one is not cause]
        broken = any(one.outcome == "finite" for one in cause.predicts(HERE))
        proof = prove(bench(tmp_path, truth_of(cause), of(cause.slug), *others[: MAX_TESTS - 1], broken=broken))
        assert (proof.verdict, proof.cause) == ("confirmed", cause.slug), proof.text
        assert "3 placebos do not cure" in proof.text

    @pytest.mark.parametrize("cause", PREDICTING, ids=lambda cause: cause.slug)
    def test_in_the_world_of_a_cause_that_is_not_tested_nothing_is_confirmed(
        self, tmp_path: Path, cause: Cause
    ) -> None:
        others = [of(one.slug) for one in PREDICTING if one is not cause]
        broken = any(one.outcome == "finite" for one in cause.predicts(HERE))
        proof = prove(bench(tmp_path, truth_of(cause), *others[:MAX_TESTS], broken=broken))
        assert proof.verdict in ("undecided", "refuted", "interaction") and not proof.cause, proof.text

    def test_confirmed_with_its_figures(self, tmp_path: Path) -> None:
        made = bench(tmp_path, TAIL, *map(of, RIVALS))
        heard: list[tuple[str, str]] = []
        made.on_arm = lambda name, text: heard.append((name, text))
        proof = prove(made)
        assert (proof.incident.kind, proof.incident.onset_step, proof.verdict, proof.cause) == (
            *("loss_spike", ONSET),
            *("confirmed", "long_tail_tokens"),
        )
        assert proof.text == (
            "the null replay shows it again bit for bit (100 rows: batch_hash, loss, param_hash), every replay that "
            "long_tail_tokens predicts came out as predicted, 3 placebos do not cure, "
            "and its rivals fail (garbage_data: "
            "mask=312:313: predicted persists, came out cured; lr_too_high: replace=312:313: predicted persists, came "
            "out cured)"
        )
        by_role = [one.role for one in proof.experiments]
        assert by_role == ["R0", "R1", "R2", "R2", "R2", "R3", "R3"], "no replay that nothing hangs on"
        (mask,) = [one for one in proof.experiments if told(one) == "mask=312:313"]
        assert (mask.outcome, mask.tests) == ("cured", ("long_tail_tokens", "garbage_data"))
        assert (mask.run, mask.seconds) == ("replays/R1-mask-312-313", 1.5)
        assert mask.steps == made.design.until - made.design.arms_start
        (move,) = [one for one in proof.experiments if one.outcome == "follows"]
        assert "where the data are consumed now (step 353): loss spike at step 353" in move.text
        begun = [name for name, text in heard if not text]
        assert begun == [name for name, text in sorted(heard, key=lambda one: begun.index(one[0])) if text]

    def test_a_rival_that_is_still_open_keeps_it_undecided(self, tmp_path: Path) -> None:
        twin = hypothesis("garbage_data", 0.2, Prediction((Change.from_text("replace=312:313"),), "cures"))
        proof = prove(bench(tmp_path, TAIL, of("long_tail_tokens"), twin))
        assert (proof.verdict, proof.cause) == ("undecided", "")
        assert proof.text == (
            "the suspect batches take the incident along, and without them it is cured; the replays do not distinguish "
            "between long_tail_tokens, garbage_data"
        )
        assert Shown.by(proof.experiments).fix == (Change.from_text("skip=312:313"),)

    def test_what_could_not_be_driven_fails_nothing_and_confirms_nothing(self, tmp_path: Path) -> None:
        world = worlds(**DATA, mask="the program offers no edited()")
        proof = prove(bench(tmp_path, world, *map(of, RIVALS)))
        assert (proof.verdict, proof.cause) == ("undecided", "")
        (mask,) = [one for one in proof.experiments if told(one) == "mask=312:313"]
        assert mask.outcome == "" and "not driven: the program offers no edited()" in mask.text and mask.seconds == 0.0
        alone = prove(bench(tmp_path / "alone", world, of("long_tail_tokens")))
        assert alone.verdict == "undecided" and "not every replay that it predicts could be driven" in alone.text

    def test_one_of_several_strengths_is_enough_and_the_weakest_is_tried_first(self, tmp_path: Path) -> None:
        def world(spec: ReplaySpec) -> str:
            return "calm" if told(spec) in ("lr-scale=0.1", "move=312:313@353") else "there"

        made = bench(tmp_path, world, *map(of, ("lr_too_high", "long_tail_tokens", "optimizer_reset")))
        assert prove(made).cause == "lr_too_high"
        assert [told(one) for one in made.driven.values() if "lr-scale" in told(one)] == [
            "lr-scale=0.5",
            "lr-scale=0.1",
        ]

    @pytest.mark.parametrize("placebo", ["skip=311:312", "skip=310:311", "noise=1"])
    @pytest.mark.parametrize(("outcome", "words"), [("calm", "a placebo cures"), ("killed", "could not be driven")])
    def test_no_cure_proves_anything_where_a_placebo_cures_or_is_missing(
        self, tmp_path: Path, placebo: str, outcome: str, words: str
    ) -> None:
        made = bench(tmp_path, lambda spec: outcome if told(spec) == placebo else TAIL(spec), *map(of, RIVALS))
        proof = prove(made)
        assert (proof.verdict, proof.cause) == ("undecided", "") and words in proof.text
        assert len(proof.experiments) == 7, "and nothing more is driven"

    def test_a_placebo_by_which_a_nan_becomes_a_number_is_no_placebo(self, tmp_path: Path) -> None:
        def world(spec: ReplaySpec) -> str:
            return "finite" if told(spec) == "noise=1" else TAIL(spec)

        assert prove(bench(tmp_path, world, *map(of, RIVALS), broken=True)).verdict == "undecided"

    def test_interaction(self, tmp_path: Path) -> None:
        """Other data in its state, and its data in another state: both are calm."""
        proof = prove(bench(tmp_path, worlds(replace="calm"), *map(of, RIVALS)))
        assert (proof.verdict, proof.cause) == ("interaction", "") and "needs both" in proof.text

    def test_refuted_names_what_each_cause_failed_by(self, tmp_path: Path) -> None:
        proof = prove(bench(tmp_path, worlds(), *map(of, ("long_tail_tokens", "optimizer_reset"))))
        assert (proof.verdict, proof.cause) == ("refuted", "")
        assert "long_tail_tokens: mask=312:313: predicted cured, came out persists" in proof.text
        assert "optimizer_reset: moments=restored: predicted cured, came out persists" in proof.text

    def test_elimination_alone_confirms_nothing(self, tmp_path: Path) -> None:
        proof = prove(bench(tmp_path, TAIL, of("garbage_data", 0.5), of("long_tail_tokens", 0.001)))
        assert proof.verdict == "undecided" and "no panel suggests it" in proof.text

    def test_what_predicts_only_that_nothing_appears_is_refuted_by_the_null_replay(self, tmp_path: Path) -> None:
        noise = Prediction((Change("noise", values=(1,)),), "persists")
        both = hypothesis("bit_flip", 0.5, Prediction((), "vanishes"), noise)
        proof = prove(bench(tmp_path, TAIL, both, of("long_tail_tokens")))
        assert proof.cause == "long_tail_tokens"
        assert "bit_flip: the null replay shows the incident again" in proof.text

    def test_what_stays_where_it_was_does_not_follow_however_long_it_lasts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A loss that never comes back is high at the new place of the data as well."""
        plain_curve = curve

        def lasting(world: str, *, broken: bool = False) -> np.ndarray:
            loss = plain_curve(world, broken=broken)
            loss[ONSET if world == "there" else UNTIL :] += 2.0
            return loss

        monkeypatch.setattr("tests.experiment.test_prove.curve", lasting)
        made = bench(tmp_path, worlds(move="there", moments="calm"), *map(of, ("optimizer_reset", "long_tail_tokens")))
        proof = prove(made)
        (move,) = [one for one in proof.experiments if told(one) == "move=312:313@353"]
        assert move.outcome == "persists" and "it stays at its old place, step 312" in move.text
        assert proof.cause == "optimizer_reset"

    def test_data_that_is_not_met_again_decides_nothing(self, tmp_path: Path) -> None:
        absent = hypothesis("long_tail_tokens", 0.5, Prediction((Change.from_text("move=312:313@9999"),), "follows"))
        made = bench(tmp_path, TAIL, absent, of("optimizer_reset"))
        proof = prove(made)
        (far,) = [one for one in proof.experiments if told(one) == "move=312:313@9999"]
        assert (far.outcome, far.excess) == ("", None) and "not consumed again" in far.text
        assert proof.verdict == "undecided"


class TestNullReplay:
    def test_what_does_not_appear_again_ends_it(self, tmp_path: Path) -> None:
        made = bench(tmp_path, lambda spec: "calm", *map(of, RIVALS))
        proof = prove(made)
        assert (proof.verdict, proof.cause) == ("not_reproducible", "logging_artifact")
        assert [one.role for one in proof.experiments] == ["R0"] and not made.driven

    def test_what_cannot_be_driven_is_one_message_with_its_exit_code(self, tmp_path: Path) -> None:
        with pytest.raises(PostmortemError, match=r"^the shard is not there$") as error:
            prove(bench(tmp_path, lambda spec: "the shard is not there", *map(of, RIVALS)))
        assert error.value.exit_code == UsageError.exit_code


def test_an_older_incident_is_not_the_one_that_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait for nothing begin at the checkpoint, and pass whatever lies between it and the onset."""
    plain_curve = curve

    def with_an_older_spike(world: str, *, broken: bool = False) -> np.ndarray:
        loss = plain_curve(world, broken=broken)
        loss[START + 1] = 4.0
        return loss

    monkeypatch.setattr("tests.experiment.test_prove.curve", with_an_older_spike)
    made = bench(tmp_path, TAIL, *map(of, RIVALS))
    apart = ExperimentDriver(made.target, design_experiment(made.target.incident, from_step=START, independent=True))
    assert apart.design.arms_start == START < apart.design.first
    proof = prove(apart)
    assert (proof.verdict, proof.cause) == ("confirmed", "long_tail_tokens"), proof.text


class TestOtherArithmetic:
    """Bits cannot be had: replays lie apart by nothing of meaning, and the band is as wide."""

    APART = 0.5  # nats between the null replay and the one with last-bit noise, and what every other is raised by

    def proof(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, noise: str = "there"
    ) -> tuple[ExperimentDriver, Proof]:
        plain_curve = curve

        def raised(world: str, *, broken: bool = False) -> np.ndarray:
            return plain_curve(world, broken=broken) + self._raise * (np.arange(UNTIL) >= START)

        monkeypatch.setattr("tests.experiment.test_prove.curve", raised)

        def world(spec: ReplaySpec) -> str:
            self._raise = self.APART if spec.changes else 0.0
            return noise if told(spec) == "noise=1" else TAIL(spec)

        self._raise = 0.0
        made = bench(folder, world, *map(of, RIVALS), arithmetic=("torch 2.8 then, 2.13 now",))
        return made, prove(made)

    def test_the_band_is_measured_before_anything_is_judged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, proof = self.proof(tmp_path, monkeypatch)
        assert made.judge is not None and made.judge.band == pytest.approx(self.APART)
        assert (proof.verdict, proof.cause) == ("confirmed", "long_tail_tokens"), proof.text
        assert "though not bit for bit (torch 2.8 then, 2.13 now)" in proof.text
        (mask,) = [one for one in proof.experiments if told(one) == "mask=312:313"]
        assert mask.excess is not None and mask.excess < 0.1, "within the band"
        peak = 3 * (5.0 - made.judge.level - self.APART)
        assert made.judge.excess == pytest.approx(peak, rel=0.02), "R0's own excess is over the same band"

    def test_without_the_noise_the_band_is_the_run_s_own_and_no_cause_is_confirmed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, proof = self.proof(tmp_path, monkeypatch, noise="killed")
        assert made.judge is not None and made.judge.band < 0.1
        assert proof.verdict == "undecided" and "a placebo could not be driven" in proof.text
