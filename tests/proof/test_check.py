"""A stored proof is a claim: a draft says only what the replays show that lie in the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

from postmortem.diagnosis import Diagnosis
from postmortem.pipeline import Examined, diagnose
from postmortem.proof.check import MOST_SINGLES
from postmortem.proof.design import design_experiment
from postmortem.proof.stored_proofs import FILE, dated, load_proofs, proof_hash, store_proof
from postmortem.report import render, summarize
from postmortem.run import Run
from postmortem.sources import open_run
from tests.proof.forgeries import CASE_13, CONTRADICTIONS, GONE, MASK, NULL, claim_of, edit_proof, replays
from tests.replay.rogue_program import record
from tests.replays import AT, Driver
from tests.samples import NAMES, sample

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose cause was proved, with its replays."""
    from postmortem.experiment.prove import ExperimentDriver, prove
    from postmortem.experiment.target import find_target

    run = record(tmp_path_factory.mktemp("proved") / "run", {"rogue": [AT], "rows": [2, 5]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("postmortem.experiment.target.run_replays", Driver())
        target = find_target(run, "prove", trusted=True)
        design = design_experiment(target.incident, from_step=target.from_step, end=target.end)
        store_proof(run, dated(prove(ExperimentDriver(target, design))), ())
    return run


@pytest.fixture
def run(proved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(proved, tmp_path / "copy" / "run", symlinks=True))


@pytest.fixture(scope="module")
def sibling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that parts from the proved one in its bad batch."""
    return record(tmp_path_factory.mktemp("sibling") / "run", {"rogue": [AT], "rows": [1, 3, 4]})


def incidents_of(diagnosis: Diagnosis) -> Any:
    """As JSON, in which a NaN equals a NaN."""
    return json.loads(diagnosis.to_json())["incidents"]


def test_what_was_proved_is_confirmed_again_from_its_replays(run: Path) -> None:
    (stored,) = load_proofs(open_run(run))
    found = diagnose(open_run(run))
    (incident,) = found.incidents
    assert (found.verdict, incident.proof, incident.experiments) == ("confirmed", stored.text, stored.experiments)
    assert not found.notes and stored.date.startswith("20")
    elsewhere = run.rename(run.parent.parent / "other name")
    assert diagnose(open_run(elsewhere)).verdict == "confirmed", "a run may be moved"


def test_a_run_that_goes_on_keeps_its_proof(run: Path) -> None:
    """Its next attempt has the number that its replays have in their own rows."""
    part = min((run / "metrics").glob("*.parquet"))
    table = pq.read_table(part)
    last = table.filter(pc.equal(table["step"], pc.max(table["step"]).as_py()))
    for name, value in (("attempt", 1), ("step", pc.max(table["step"]).as_py() + 1)):
        place = last.schema.get_field_index(name)
        last = last.set_column(place, name, pa.array([value] * len(last), last.schema.field(name).type))
    pq.write_table(last, run / "metrics" / "part-000099.parquet")
    assert [segment.attempt for segment in open_run(run).segments] == [0, 1]
    assert diagnose(open_run(run)).verdict == "confirmed"


def test_a_sibling_run_changes_nothing_of_what_was_proved(run: Path, sibling: Path) -> None:
    found = diagnose(open_run(run), baseline=open_run(sibling))
    assert found.verdict == "confirmed" and not found.notes


def test_single_replays_without_number_cost_no_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def multiply(proof: dict[str, Any]) -> None:
        single = {**claim_of(proof, NULL), "role": "replay"}
        proof["experiments"] += [single] * 3000

    edit_proof(run, multiply)
    read: list[Path] = []

    def counted(path: Path) -> Run:
        read.append(path)
        return open_run(path)

    shown = Examined(open_run(run), open_replay=counted).diagnosis().incidents[0].experiments
    assert len(read) == 8 + MOST_SINGLES
    assert [one.unchecked for one in shown[8:]] == ["not looked at"] * (3000 - MOST_SINGLES) + [""] * MOST_SINGLES


def test_no_word_of_the_file_is_shown(run: Path) -> None:
    evil = "![x](http://evil.example) ran \u202e"

    def put_words(proof: dict[str, Any]) -> None:
        proof["text"] = evil
        for claim in proof["experiments"]:
            claim |= {"text": evil, "tests": [evil], "excess": 0.5, "seconds": 1e6}

    edit_proof(run, put_words)
    found = diagnose(open_run(run))
    assert found.verdict == "confirmed" and "evil" not in found.to_json() and "evil" not in render(found)
    shutil.rmtree(replays(run))
    found = diagnose(open_run(run))
    assert found.verdict == "supported" and "evil" not in found.to_json()


class TestNotConfirmed:
    @pytest.mark.parametrize("name", GONE)
    def test_where_replays_are_gone_or_others(self, run: Path, sibling: Path, name: str) -> None:
        forge, reason = GONE[name]
        forge(run, sibling)
        (stored,) = load_proofs(open_run(run))
        found = diagnose(open_run(run))
        incident = next(incident for incident in found.incidents if incident.key == stored.incident)
        assert incident.verdict == "supported" and reason in incident.proof, (incident.verdict, found.notes)
        assert incident.proof.startswith(f"as proven on {stored.date}, ")
        assert incident.proof.endswith(f"(proof {proof_hash(stored)})") and len(proof_hash(stored)) == 12
        assert incident.experiments and all(one.unchecked for one in incident.experiments if one.role != "replay")
        page = render(found, incident=incident.id)
        assert "**Verdict: supported**" in page and "confirmed" not in page and "cured (not checked)" in page
        assert f"As proven on {stored.date}, " in page and "Shown by replays" not in page
        lines = ["".join(span.text for span in line) for line in summarize(found, incident=incident.id)]
        assert f"supported: as proven on {stored.date}" in lines[0]


class TestIgnored:
    @pytest.mark.parametrize("name", CONTRADICTIONS)
    def test_where_the_file_contradicts_itself_or_its_replays(self, run: Path, name: str) -> None:
        forge, kept, reason = CONTRADICTIONS[name]
        edit_proof(run, forge)
        if not kept:
            shutil.rmtree(replays(run))
        found = diagnose(open_run(run))
        (run / FILE).unlink()
        without = diagnose(open_run(run))
        if reason:
            (note,) = set(found.notes) - set(without.notes)
            assert reason in note and "prove again" in note and "step 110" in note
            assert incidents_of(found) == incidents_of(without)
        assert found.verdict != "confirmed"

    def test_of_another_incident(self, run: Path) -> None:
        edit_proof(run, lambda proof: proof["incident"].update(onset_step=111))
        found = diagnose(open_run(run))
        (run / FILE).unlink()
        assert found.to_json() == diagnose(open_run(run)).to_json()

    @pytest.mark.parametrize("date", ["tomorrow", "2025-01-01\n# x", "![x](y)"])
    def test_a_date_that_is_none(self, run: Path, date: str) -> None:
        edit_proof(run, lambda proof: proof.update(date=date))
        found = diagnose(open_run(run))
        assert found.verdict != "confirmed" and any("is not a file of proofs" in note for note in found.notes)


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_proof_beside_a_sample_run_changes_nothing(name: str, tmp_path: Path) -> None:
    """Attack case 13: a verdict, a cause, words, and no replay."""
    run = Path(shutil.copytree(sample(name), tmp_path / name, symlinks=True))
    without = diagnose(open_run(run))
    proofs = [
        {**CASE_13, "incident": {key: getattr(i, key) for key in ("kind", "onset_step", "attempt", "discarded")}}
        for i in without.incidents
    ]
    (run / "postmortem").mkdir(exist_ok=True)
    (run / FILE).write_text(json.dumps({"proofs": proofs}))
    found = diagnose(open_run(run))
    assert incidents_of(found) == incidents_of(without) and found.verdict == without.verdict
    assert len(found.notes) == len(without.notes) + len(proofs)
    assert "evil" not in found.to_json() and "evil" not in render(found)


def test_the_hash_says_what_was_proven_and_not_when_or_in_which_words(run: Path) -> None:
    (stored,) = load_proofs(open_run(run))
    before = proof_hash(stored)
    edit_proof(run, lambda proof: proof.update(date="2001-01-01", text="other words"))
    edit_proof(run, lambda proof: claim_of(proof, MASK).update(seconds=1.0, text="other words"))
    assert proof_hash(load_proofs(open_run(run))[0]) == before
    edit_proof(run, lambda proof: claim_of(proof, MASK).update(outcome="finite"))
    assert proof_hash(load_proofs(open_run(run))[0]) != before
