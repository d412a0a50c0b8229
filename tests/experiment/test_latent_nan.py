"""A NaN that no batch reads for thirty steps: no command may start from it, call it cured, or prove a cause with it."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

pytest.importorskip("torch")

from postmortem import diagnosis
from postmortem.assess.verification import verify
from postmortem.change import Change
from postmortem.errors import UsageError
from postmortem.experiment.bisect import BatchSearch, default_window
from postmortem.experiment.prove import ExperimentDriver, prove
from postmortem.experiment.target import ExperimentTarget, find_target
from postmortem.experiment.verify_remedy import replay_with_remedy
from postmortem.pipeline import diagnose
from postmortem.proof.design import design_experiment
from postmortem.proof.stored_proofs import store_proof
from postmortem.replay.request import ReplayRequest, plan
from postmortem.run.replayed import ReplayResult
from postmortem.sources import open_run
from tests.replay.latent_program import READ, SPOILS, STEPS, record
from tests.replays import Driver

pytestmark = [pytest.mark.bits, pytest.mark.heavy]


def recorded(out: Path, **config: int) -> Path:
    with pytest.warns(UserWarning, match="not finite"):
        return record(out, config)


@pytest.fixture(scope="module")
def _run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("latent") / "run")


@pytest.fixture
def run(_run: Path, tmp_path: Path) -> Path:
    return Path(copytree(_run, tmp_path / "run"))


def target_of(run: Path) -> ExperimentTarget:
    return find_target(run, "prove", trusted=True)


def driven(run: Path, *changes: Change) -> ReplayResult:
    target = target_of(run)
    return replay_with_remedy(target, target.end, changes)


def test_the_draft_goes_back_to_before_the_damage(run: Path) -> None:
    worst = diagnose(open_run(run)).incidents[0]
    assert worst.onset_step == READ and worst.checkpoint == "rollback/step-00000100.dcp"
    assert worst.damaged_between == (100, 110) and worst.skip_window == (100, 110)
    assert "steps 100 to 109" in worst.root_cause and "step 136" not in worst.root_cause
    assert plan(ReplayRequest(run, trusted=True)).spec.from_step == 100


@pytest.mark.parametrize("request_of", [{"from_step": 130}, {"checkpoint": "rollback/step-00000130.dcp"}])
def test_a_replay_from_the_damage_is_refused_and_says_from_where(run: Path, request_of: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"step-00000130.dcp is not finite: 1 element .* --from-step 100"):
        plan(ReplayRequest(run, trusted=True, until=150, changes=(), **request_of))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "cured"), [(f"skip={READ}:{READ + 5}", False), (f"skip={SPOILS}:{SPOILS + 1}", True)]
)
def test_cured_asks_for_a_finite_state(change: str, cured: bool, tmp_path: Path) -> None:
    """A replay that never reads the broken row shows no incident, and is not cured."""
    from postmortem.experiment.record_outcome import record_outcome
    from postmortem.interventions import parse_change
    from postmortem.pipeline import OpenRuns
    from postmortem.replay.run_replay import replay

    run = recorded(tmp_path / "run", read_until=READ + 5)
    spec = target_of(run).spec("one", 100, 160, (parse_change(change),))
    _, experiment = record_outcome(spec, replay(spec), OpenRuns()) or (None, None)
    assert experiment is not None and (experiment.outcome == "cured") == cured
    assert ("the state at the end is not finite: 1 element of model.weight" in experiment.text) == (not cured)


def test_no_cause_at_the_step_of_the_reading_is_proven(in_process: Driver, run: Path) -> None:
    target = target_of(run)
    experiment = ExperimentDriver(target, design_experiment(target.incident, from_step=target.from_step))
    proof = prove(experiment)
    assert proof.verdict != "confirmed" and target.from_step == 100 == experiment.design.arms_start
    assert all(arm.changes[0].name == "noise" for arm in experiment.design.placebos), "no placebo lies before the start"
    store_proof(run, proof, ())
    drafted = diagnose(open_run(run)).incidents[0]
    assert (drafted.verdict, drafted.proof) == (proof.verdict, proof.text), "a draft judges the replays alike"


def test_the_search_for_batches_ends_at_the_one_that_wrote_it(in_process: Driver, run: Path) -> None:
    target = target_of(run)
    assert default_window(target)[0] <= SPOILS
    assert BatchSearch(target, (100, 115)).find_culprits().batches == (SPOILS,)


@pytest.mark.parametrize(("skipped", "passes"), [((READ, STEPS), False), ((100, 110), True)])
def test_verify_looks_at_the_state(run: Path, skipped: tuple[int, int], passes: bool) -> None:
    worst: diagnosis.Incident = diagnose(open_run(run)).incidents[0]
    assert worst.verification is not None
    replayed = open_run(driven(run, Change("skip", (skipped,))).out)
    results = verify(worst.verification, worst.onset_step, replayed)
    (state,) = [one for one in results if "infinite element" in one.text]
    assert state.passed == passes == all(one.passed for one in results)
    (replayed.root / "replayed.json").unlink()  # as a run that was trained anew
    assert [
        one for one in verify(worst.verification, worst.onset_step, replayed) if "state at the end" in one.text
    ] == []


def test_a_trained_run_is_verified_by_its_newest_checkpoint(run: Path) -> None:
    worst = diagnose(open_run(run)).incidents[0]
    assert worst.verification is not None
    (state,) = [
        r for r in verify(worst.verification, worst.onset_step, open_run(run)) if "checkpoint of step" in r.text
    ]
    assert not state.passed and "step 150" in state.text
