"""A stored proof is a claim: a draft says only what the replays show that lie in the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

from postmortem.diagnosis import Diagnosis
from postmortem.pipeline import diagnose
from postmortem.proof.decision import Outcome
from postmortem.proof.design import design_experiment
from postmortem.proof.stored_proofs import FILE, dated, load_proofs, proof_hash, store_proof
from postmortem.report import render, summarize
from postmortem.sources import open_run
from tests.replay.rogue_program import record
from tests.replays import AT, Driver
from tests.samples import NAMES, sample

pytestmark = pytest.mark.heavy

CASE_13: dict[str, Any] = {
    "verdict": "confirmed",
    "cause": "lr_too_high",
    "text": "everything was proven ![x](http://evil.example)",
    "experiments": [],
}
MASK, MOVE, NULL, SKIP = "R1-mask-110-111", "R3-move-110-111-130", "R0", "R2-skip-109-110"


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


def replays(run: Path) -> Path:
    return run / "postmortem" / "replays" / "prove-110"


def edit_json(file: Path, edit: Callable[[Any], object]) -> None:
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))


def edit_proof(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    edit_json(run / FILE, lambda value: edit(value["proofs"][0]))


def claim_of(proof: dict[str, Any], name: str) -> dict[str, Any]:
    (claim,) = [one for one in proof["experiments"] if one["run"].endswith(f"/{name}")]
    return claim


def change_loss(folder: Path, step: int) -> None:
    """Write another loss into the rows of one step; the file is replaced, since a replay shares its parent's."""
    for part in sorted((folder / "metrics").glob("*.parquet")):
        table = pq.read_table(part)
        here = pc.equal(table["step"], step)
        changed = pc.if_else(here, pc.add(table["loss"], 0.25), table["loss"])
        part.unlink()
        pq.write_table(table.set_column(table.schema.get_field_index("loss"), "loss", changed), part)


def table_of(folder: Path) -> pa.Table:
    parts = [pq.read_table(part) for part in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(parts, promote_options="default")


def copy_rows(source: Path, target: Path, start: int) -> None:
    """Put the rows of `source` from step `start` on into `target`, as the rows of its own newest attempt."""
    for name in ("metrics", "batches"):
        theirs, ours = table_of(source / name), table_of(target / name)
        mine, last = pc.max(ours["attempt"]).as_py(), pc.max(theirs["attempt"]).as_py()
        chosen = theirs.filter(pc.and_(pc.equal(theirs["attempt"], last), pc.greater_equal(theirs["step"], start)))
        attempts = pa.array([mine] * len(chosen), ours["attempt"].type)
        chosen = chosen.set_column(chosen.schema.get_field_index("attempt"), "attempt", attempts)
        kept = ours.filter(pc.less(ours["attempt"], mine))
        for part in (target / name).glob("*.parquet"):
            part.unlink()
        rows = pa.concat_tables([kept, chosen], promote_options="default")
        pq.write_table(rows, target / name / "part-000001.parquet")


def equal_result(folder: Path) -> None:
    """Let the result say that nothing differed."""
    edit_json(folder / "replayed.json", lambda result: result.update(differences=[], departed={}))


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


def gone(name: str) -> Callable[[Path, Path], object]:
    return lambda run, _: shutil.rmtree(replays(run) / name if name else replays(run))


def cut_result(run: Path, _: Path) -> None:
    (replays(run) / MASK / "replayed.json").unlink()


def link_outside(run: Path, sibling: Path) -> None:
    outside = run.parent / "outside"
    (replays(run) / MASK).rename(outside)
    (replays(run) / MASK).symlink_to(outside)


def name_outside(run: Path, _: Path) -> None:
    shutil.copytree(replays(run), run.parent / "outside")

    def lead_out(proof: dict[str, Any]) -> None:
        for claim in proof["experiments"]:
            claim["run"] = f"../outside/{Path(claim['run']).name}"

    edit_proof(run, lead_out)


def made_up(run: Path, _: Path) -> None:
    def rename(proof: dict[str, Any]) -> None:
        for claim in proof["experiments"]:
            claim["run"] = f"postmortem/replays/made-up/{Path(claim['run']).name}"

    edit_proof(run, rename)


def of_another_run(run: Path, sibling: Path) -> None:
    """The replays and the proof come to lie beside a run that is alike up to the incident."""
    kept = run.parent / "kept"
    (run / "postmortem").rename(kept)
    shutil.rmtree(run)
    shutil.copytree(sibling, run, symlinks=True)
    kept.rename(run / "postmortem")


def swap_folders(run: Path, _: Path) -> None:
    def swap(proof: dict[str, Any]) -> None:
        mask, move = claim_of(proof, MASK), claim_of(proof, MOVE)
        mask["run"], move["run"] = move["run"], mask["run"]

    edit_proof(run, swap)


def copy_whole_parent(run: Path, _: Path) -> None:
    """The folder of a placebo is R0 with its own two JSON files."""
    kept = {name: (replays(run) / SKIP / name).read_text() for name in ("replay.json", "replayed.json")}
    shutil.rmtree(replays(run) / SKIP)
    shutil.copytree(replays(run) / NULL, replays(run) / SKIP, symlinks=True)
    for name, text in kept.items():
        (replays(run) / SKIP / name).write_text(text)


def copy_parent_rows(name: str) -> Callable[[Path, Path], None]:
    def forge(run: Path, _: Path) -> None:
        copy_rows(replays(run) / NULL, replays(run) / name, 103)
        equal_result(replays(run) / name)

    return forge


def null_as_copy_of_the_run(run: Path, _: Path) -> None:
    shutil.rmtree(replays(run) / NULL / "metrics")
    shutil.copytree(run / "metrics", replays(run) / NULL / "metrics")


GONE = {
    "all replays gone": (gone(""), "replays gone"),
    "one replay gone": (gone(MASK), "replays gone"),
    "a placebo gone": (gone(SKIP), "replays gone"),
    "the null replay gone": (gone(NULL), "replays gone"),
    "no result in a folder": (cut_result, "replays gone"),
    "made-up folders": (made_up, "replays gone"),
    "a link out of the run": (link_outside, "leads outside the run"),
    "a path out of the run": (name_outside, "leads outside the run"),
    "the run itself as a replay": (
        lambda run, _: edit_proof(run, lambda proof: claim_of(proof, MASK).update(run=".")),
        "is the run itself",
    ),
    "replays of another run": (of_another_run, "differ otherwise than when it was driven: batch_hash at step 110"),
    "folders swapped": (swap_folders, "another replay than the record says"),
    "another id": (
        lambda run, _: edit_json(run / "run.json", lambda manifest: manifest.update(id="another")),
        "is one of another run",
    ),
    "a copy of the parent": (copy_whole_parent, "is one of another run, or of other changes"),
    "a placebo with its parent's rows": (copy_parent_rows(SKIP), "are a copy"),
    "a null replay with the run's rows": (null_as_copy_of_the_run, "has no rows of its own"),
    "a row before the replays edited": (
        lambda run, _: change_loss(run, 50),
        "not the run's: loss at step 50",
    ),
    "a row of the replayed steps edited": (
        lambda run, _: change_loss(run, 120),
        "differ otherwise than when it was driven: loss at step 120",
    ),
    "a row of a replay edited": (lambda run, _: change_loss(replays(run) / MASK, 105), "loss at step 105"),
    "a damaged spec": (lambda run, _: (replays(run) / MASK / "replay.json").write_text("{"), "cannot be read"),
    "an attempt that is none": (
        lambda run, _: edit_json(replays(run) / NULL / "replay.json", lambda spec: spec.update(attempt=7)),
        "is one of another run",
    ),
    "steps without end": (
        lambda run, _: (
            edit_json(replays(run) / MASK / "replay.json", lambda spec: spec.update(until=10**300)),
            edit_json(replays(run) / MASK / "replayed.json", lambda result: result.update(until=10**300)),
            edit_proof(run, lambda proof: claim_of(proof, MASK).update(steps=10**300 - 103)),
        ),
        "not those of its steps",
    ),
}


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


def no_replays(proof: dict[str, Any]) -> None:
    proof["experiments"] = []


def other_cause(proof: dict[str, Any]) -> None:
    proof["cause"] = "garbage_data"


def recorded(**outcomes: Outcome) -> Callable[[dict[str, Any]], None]:
    """Other outcomes on record, by the name of a change."""

    def forge(proof: dict[str, Any]) -> None:
        for claim in proof["experiments"]:
            name = (claim["changes"] or ["none"])[0].partition("=")[0]
            claim["outcome"] = outcomes.get(name, claim["outcome"])

    return forge


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], bool, str]] = {
    "no experiments": (no_replays, True, "names no null replay"),
    "no null replay": (
        lambda proof: proof["experiments"].remove(claim_of(proof, NULL)), True, "names no null replay"
    ),
    "another cause": (other_cause, True, "its replays show confirmed: long_tail_tokens"),
    "another verdict": (
        lambda proof: proof.update(verdict="refuted", cause=""), True, "its replays show confirmed: long_tail_tokens"
    ),
    "another cause, replays gone": (other_cause, False, "do not prove garbage_data"),
    "a cause that no panel suggests": (
        lambda proof: proof.update(cause="lr_too_high"), False, "no panel suggests lr_too_high"
    ),
    "no cure on record": (recorded(mask="persists"), False, "do not prove long_tail_tokens"),
    "a placebo that cures": (recorded(skip="cured"), False, "do not prove long_tail_tokens"),
    "a null replay without the incident": (recorded(none="vanished"), False, "does not show the incident"),
    "a bit flip by one null replay": (
        lambda proof: proof.update(verdict="not_reproducible", cause="long_tail_tokens"), False, "do not say so"
    ),
    "refuted, replays gone": (lambda proof: proof.update(verdict="refuted", cause=""), False, "only as proven on 20"),
    "a change that does not exist": (
        lambda proof: claim_of(proof, NULL).update(changes=["gremlins=1"]), False, ""
    ),
}  # fmt: skip


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
