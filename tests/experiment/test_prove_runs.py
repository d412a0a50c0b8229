"""Proving on runs: a program of a second, the sample runs, and the lab's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.change import Change
from postmortem.experiment.prove import ExperimentDriver, prove
from postmortem.experiment.target import NULL, find_target
from postmortem.lab import make_run
from postmortem.pipeline import diagnose
from postmortem.proof.design import design_experiment
from postmortem.proof.stored_proofs import Proof, store_proof
from postmortem.sources import open_run
from tests.replay.rogue_program import hit, misreport, record
from tests.replays import Driver
from tests.samples import copy_of

pytestmark = [pytest.mark.bits, pytest.mark.heavy]


def bench_of(run: Path) -> ExperimentDriver:
    about = find_target(run, "prove", trusted=True)
    return ExperimentDriver(about, design_experiment(about.incident, from_step=about.from_step))


def assert_drafted(run: Path, proof: Proof) -> None:
    """A draft that knows the replays alone comes to the same: verdict, cause, words, and every outcome."""
    store_proof(run, replace(proof, text="words that no draft shows"), ())
    incident = next(incident for incident in diagnose(open_run(run)).incidents if incident.key == proof.incident)
    assert (incident.verdict, incident.proof, incident.experiments) == (proof.verdict, proof.text, proof.experiments)


class TestRuns:
    def test_a_rare_token_batch_interrupted_on_the_way(
        self, in_process: Driver, rogue_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(name: str, text: str) -> None:
            if text and name.startswith("R3-move"):
                raise KeyboardInterrupt

        made = bench_of(rogue_run)
        made.on_arm = interrupt
        with pytest.raises(KeyboardInterrupt):
            prove(made)
        before = list(in_process.driven)
        proof = prove(bench_of(rogue_run))
        assert (proof.verdict, proof.cause) == ("confirmed", "long_tail_tokens"), proof.text
        assert before and len(set(in_process.driven)) == len(in_process.driven), "nothing is driven twice"
        assert prove(bench_of(rogue_run)) == proof and len(in_process.driven) == len(proof.experiments)
        assert {one.run for one in proof.experiments} == {
            f"postmortem/replays/prove-110/{name}" for name in in_process.driven
        }
        assert_drafted(rogue_run, proof)

    @pytest.mark.slow
    def test_an_optimizer_that_was_reset(self, in_process: Driver, tmp_path: Path) -> None:
        run = copy_of("20-run-003", tmp_path / "20-run-003")
        proof = prove(bench_of(run))
        assert (proof.verdict, proof.cause) == ("confirmed", "optimizer_reset"), proof.text
        (restored,) = [one for one in proof.experiments if one.changes == (Change("moments", values=("restored",)),)]
        assert restored.outcome == "cured"
        assert_drafted(run, proof)

    @pytest.mark.parametrize(
        ("fault", "from_outside", "replays", "words"),
        [
            ("bit_flip", "before_step", [NULL, "R0-again"], "equal bit for bit until step 110, with the same batches"),
            ("logging_artifact", "rewrite", [NULL], "only the log shows it: at step 110 it says loss 9"),
        ],
    )
    def test_what_came_from_outside(
        self, in_process: Driver, tmp_path: Path, fault: str, from_outside: str, replays: list[str], words: str
    ) -> None:
        done = {"before_step": hit, "rewrite": misreport}[from_outside]
        run = record(tmp_path / "run", {}, **{from_outside: done})
        proof = prove(bench_of(run))
        assert (proof.verdict, proof.cause) == ("not_reproducible", fault), proof.text
        assert words in proof.text and in_process.driven == replays
        assert [one.role for one in proof.experiments] == ["R0"] * len(replays)
        assert [one.outcome for one in proof.experiments] == ["vanished"] * len(replays)
        assert_drafted(run, proof)

    def test_a_program_that_does_not_repeat_itself_is_no_fault_of_the_machine(
        self, in_process: Driver, tmp_path: Path
    ) -> None:
        """Its null replay parts from the run as after a flipped bit; so does it from the next one."""
        run = record(tmp_path / "run", {"drifts_at": 105}, before_step=hit)
        proof = prove(bench_of(run))
        assert (proof.verdict, proof.cause) == ("not_reproducible", ""), proof.text
        assert "a second null replay differs from the first" in proof.text
        assert [one.run.rpartition("/")[2] for one in proof.experiments] == in_process.driven == [NULL, "R0-again"]
        assert_drafted(run, proof)

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ["bit_flip", "logging_artifact"])
    @pytest.mark.parametrize("seed", [1000, 1002])
    def test_lab_runs_of_what_came_from_outside(
        self, in_process: Driver, tmp_path: Path, fault: str, seed: int
    ) -> None:
        run = make_run(tmp_path / "run", fault=fault, seed=seed, at=210, steps=260)
        proof = prove(bench_of(run))
        assert (proof.verdict, proof.cause) == ("not_reproducible", fault), proof.text
