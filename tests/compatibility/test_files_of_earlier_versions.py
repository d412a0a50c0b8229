"""What users have on disk, written by the code of commit 6008136 (see make.py), is read by today's code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import postmortem as pm
from postmortem import diagnosis
from postmortem.checkpoint import manifest
from postmortem.checkpoint.inspection import inspect
from postmortem.checkpoint.inventory import latest
from postmortem.proof.stored_proofs import load_proofs
from postmortem.report.render import render
from postmortem.sources import open_run

WRITTEN = Path(__file__).parent / "written_by_6008136"
CHECKPOINT = Path("rollback", "step-00000100.dcp")
REPLAY = Path("run", "postmortem", "replays", "step-100-skip-110-111")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, which is the working directory: the files name each other by relative paths."""
    copy = Path(shutil.copytree(WRITTEN, tmp_path / "written", symlinks=True))
    monkeypatch.chdir(copy)
    return copy


def test_a_run_with_a_part_and_a_tail_is_read() -> None:
    run = open_run(WRITTEN / "run")
    assert len(run.row_steps) == 160 and [segment.attempt for segment in run.segments] == [0, 1]
    loss, hashes = run.series("loss"), run.labels("batch_hash")
    assert loss is not None and hashes is not None
    assert loss.at(110) == pytest.approx(1.9899, abs=1e-4) and loss.step[-1] == 159 and len(hashes) == 160
    assert [event.event for event in run.journal] == [
        *("run_start", "checkpoint", "checkpoint", "incident", "run_end", "reopen", "resume")
    ]  # fmt: skip
    assert run.manifest.program == "tests.replay.rogue_program:build" and run.manifest.config["rogue"] == [110]


def test_a_draft_takes_up_the_proof_as_far_as_its_replays_are_there() -> None:
    """make.py left out the replays of the proof, and kept a single one."""
    drafted = pm.diagnose(WRITTEN / "run")
    proven = next(incident for incident in drafted.incidents if incident.proof)
    assert drafted.verdict == proven.verdict == "supported" and "rare tokens" in proven.root_cause
    assert proven.proof == "as proven on a day that the file does not name, replays gone (proof 4b45b123baca)"
    *arms, single = proven.experiments
    assert len(arms) == 8 and all(arm.unchecked == "replays gone" for arm in arms)
    assert (single.role, single.outcome, single.unchecked) == ("replay", "cured", "")


def test_a_proof_is_read() -> None:
    (proof,) = load_proofs(open_run(WRITTEN / "run"))
    assert (proof.verdict, proof.cause, proof.incident.onset_step) == ("confirmed", "long_tail_tokens", 110)
    assert {experiment.role for experiment in proof.experiments} == {"replay", "R0", "R1", "R2", "R3"}


@pytest.mark.parametrize(
    ("format_name", "expected"), [("md", "long_tail_tokens"), ("json", "long_tail_tokens"), ("terminal", "confirmed")]
)
def test_a_diagnosis_is_read_and_rendered(format_name: str, expected: str) -> None:
    loaded = diagnosis.load(WRITTEN / "run" / "postmortem" / "diagnosis.json")
    assert loaded.verdict == "confirmed" and len(loaded.incidents) == 2
    proven = next(incident for incident in loaded.incidents if not incident.discarded)
    assert expected in render(loaded, incident=proven.id, format=format_name)


def test_a_diagnosis_is_written_again_as_it_was_read() -> None:
    file = WRITTEN / "run" / "postmortem" / "diagnosis.json"
    written = json.loads(diagnosis.load(file).to_json())
    assert written.pop("watchdog") is None, "a key that was added since"
    assert [written.pop(key) for key in ("not_judged", "not_covered", "incidents_found")] == [[], [], 0], "added since"
    assert [written["run"].pop(key) for key in ("events", "resume_attempts")] == [[], []], "keys that were added since"
    for incident in written["incidents"]:
        assert [incident.pop(key) for key in ("done", "since", "skipped")] == [[], "", ""], "keys that were added since"
        added = [incident.pop(key) for key in ("rollback", "passed_over", "damaged_between", "other_moved")]
        assert added == [None, "", None, []], "keys that were added since"
        assert {change.pop("done") for change in incident["changes"]} <= {""}, "a key that was added since"
        verification = incident["verification"]
        assert verification.pop("not_needed") == "", "a key that was added since"
        added = [(check.pop("kind"), check.pop("usual")) for check in verification["checks"]]
        assert set(added) == {("", None)}, "keys that were added since"
        for experiment in incident["experiments"]:
            assert experiment.pop("unchecked") == "", "a key that was added since"
        for remedy in incident["changes"]:
            assert remedy.pop("once") is False, "a key that was added since"
    assert written == json.loads(file.read_text())


def test_a_checkpoint_is_inspected() -> None:
    inspection = inspect(WRITTEN / "run" / CHECKPOINT)
    assert inspection.sound and inspection.checksums == "ok" and inspection.nonfinite == {}
    assert (inspection.kind, inspection.role, inspection.step) == ("postmortem", "rollback", 100)
    assert inspection.contents == ("model", "moments") and inspection.declared == "full"
    assert latest(WRITTEN / "run") == (WRITTEN / "run" / CHECKPOINT).resolve()


def test_a_manifest_is_written_again_with_the_same_bytes(tmp_path: Path) -> None:
    """Its checksum is one over its keys: an earlier version has to come to the same."""
    folder = WRITTEN / "run" / CHECKPOINT
    manifest.write(tmp_path, manifest.read(folder))
    assert (tmp_path / manifest.NAME).read_bytes() == (folder / manifest.NAME).read_bytes()


def test_a_checkpoint_is_loaded_and_resumed_from(written: Path) -> None:
    pytest.importorskip("torch")
    from postmortem.checkpoint import Checkpointer, load_checkpoint
    from postmortem.record import Recorder
    from tests.replay.rogue_program import build

    state = load_checkpoint(written / "run" / CHECKPOINT)
    assert set(state) == {"model", "optimizer", "place"}
    program = build({"rogue": [110], "rows": [2, 5]})
    with Recorder("run", provenance=False, on_error="raise") as recorder:
        assert recorder.attempt == 2
        with Checkpointer(recorder, program) as saves:
            resumed = saves.resume()
            assert resumed is not None and (resumed.step, resumed.missing) == (100, ())
    assert program.updates == 100
    run = open_run("run")
    events = [event.event for event in run.journal if event.event != "environment_change"]  # it depends on the machine
    assert len(run.segments) == 2 and events[-1] == "run_end"


def test_a_finished_replay_is_taken_up(written: Path) -> None:
    pytest.importorskip("torch")
    from postmortem.experiment.pool import read_finished
    from postmortem.replay.spec import read_spec
    from postmortem.run.replayed import SPEC_FILE

    spec = read_spec(REPLAY / SPEC_FILE)
    outcome = read_finished(spec)
    assert outcome is not None and outcome.result is not None
    assert (outcome.result.from_step, outcome.result.until) == (100, 160) and len(outcome.result.changes) == 1
    assert not outcome.result.exact and outcome.result.steps == 60
    assert read_finished(replace(spec, until=159)) is None
    assert open_run(REPLAY).manifest.lineage is not None


def test_exported_jobs_are_read() -> None:
    from postmortem.replay.spec import read_spec

    jobs = json.loads((WRITTEN / "jobs" / "jobs.json").read_text())
    assert len(jobs) == 11
    for job in jobs:
        spec = read_spec(WRITTEN / "jobs" / f"{job['name']}.json")
        assert (spec.from_step, spec.until) == (job["from_step"], job["until"])
        assert [str(change) for change in spec.changes] == job["changes"]
