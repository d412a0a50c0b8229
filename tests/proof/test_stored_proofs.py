"""What replays have shown, kept beside a run and taken up by every draft."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from postmortem.change import Change
from postmortem.diagnosis import Diagnosis, Experiment
from postmortem.errors import CannotWrite, UnreadableInput
from postmortem.incident import IncidentKey
from postmortem.jsonio import as_json
from postmortem.pipeline import diagnose
from postmortem.proof.stored_proofs import (
    FILE,
    Proof,
    add_experiment,
    earlier_proofs,
    load_proofs,
    proof_hash,
    store_proof,
)
from postmortem.report import render, summarize
from postmortem.sources import open_run
from tests.makers import worked_example

NULL = Experiment("R0", (), "persists", "nothing changed: the incident appears again", None, (), 300, 115, 2.5, "p/R0")
MASK = Experiment(
    *("R1", (Change("mask", ((312, 313),)),)),
    *("cured", "mask the rare tokens of batches [312, 313): no incident", 0.031),
    *(("long_tail_tokens", "garbage_data"), 306, 109, 2.25, "p/R1-mask-312-313"),
)
PROOF = Proof(
    *(IncidentKey("loss_spike", 312, 0, False), "confirmed", "long_tail_tokens"),
    *("every replay came out as it says", (NULL, MASK)),
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worked_example(tmp_path_factory.mktemp("proof") / "19-spike-001")


@pytest.fixture
def run(example: Path) -> Any:
    """The worked example, without any proof."""
    (example / FILE).unlink(missing_ok=True)
    yield example
    (example / FILE).unlink(missing_ok=True)


def put(run: Path, text: str | bytes) -> None:
    (run / FILE).parent.mkdir(exist_ok=True)
    (run / FILE).write_bytes(text.encode() if isinstance(text, str) else text)


def book(*proofs: dict[str, Any]) -> str:
    return json.dumps({"proofs": proofs})


def raw(**changed: Any) -> dict[str, Any]:
    """PROOF as JSON with some keys changed."""
    facts: dict[str, Any] = {
        "incident": {"kind": "loss_spike", "onset_step": 312, "attempt": 0, "discarded": False},
        "verdict": "confirmed",
        "cause": "long_tail_tokens",
        "text": "shown",
        "experiments": [],
    }
    return facts | changed


class TestKeeping:
    def test_round_trip(self, run: Path) -> None:
        opened = open_run(run)
        assert load_proofs(opened) == () == earlier_proofs(opened)
        other = replace(PROOF, incident=replace(PROOF.incident, onset_step=400), verdict="undecided", cause="")
        store_proof(run, PROOF, ())
        file = store_proof(run, other, load_proofs(opened))
        assert load_proofs(opened) == (PROOF, other) and file == (run / FILE).resolve()

    def test_what_is_not_finite_survives(self, run: Path) -> None:
        odd = replace(PROOF, experiments=(replace(MASK, excess=float("inf"), seconds=float("nan")),))
        text = store_proof(run, odd, ()).read_text()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        (found,) = load_proofs(open_run(run))
        assert found.experiments[0].excess == float("inf")

    def test_proving_again_replaces_the_same_incident_s_proof_only(self, run: Path) -> None:
        other = replace(PROOF, incident=replace(PROOF.incident, attempt=1))
        again = replace(PROOF, verdict="refuted", cause="", text="no more")
        store_proof(run, PROOF, ())
        store_proof(run, other, load_proofs(open_run(run)))
        store_proof(run, again, load_proofs(open_run(run)))
        assert load_proofs(open_run(run)) == (other, again)

    def test_one_more_replay(self) -> None:
        about = PROOF.incident
        single = Experiment("replay", (Change("skip", ((312, 313),)),), "cured", "skip", run="replays/a")
        alone = add_experiment(None, about, single)
        assert (alone.verdict, alone.cause, alone.text) == ("undecided", "", "") and alone.incident == about
        both = add_experiment(PROOF, about, single)
        assert (both.verdict, both.cause, both.experiments) == ("confirmed", PROOF.cause, (NULL, MASK, single))
        again = add_experiment(both, about, replace(single, outcome="persists"))
        assert again.experiments == (NULL, MASK, replace(single, outcome="persists")), "in the same place: replaced"

    @pytest.mark.parametrize(
        ("verdict", "cause"),
        [
            ("confirmed", ""),
            ("no_incident", ""),
            ("refuted", "long_tail_tokens"),
            ("supported", "long_tail_tokens"),
            ("confirmed", "gremlins"),
        ],
    )
    def test_a_proof_that_contradicts_itself_is_none(self, verdict: Any, cause: str) -> None:
        with pytest.raises(ValueError, match=r"the (verdict|cause) "):
            replace(PROOF, verdict=verdict, cause=cause)


class TestDraft:
    """Of a proof whose replays do not lie in the run; tests/proof/test_check.py has those with replays."""

    def test_takes_up_the_cause_and_the_table_and_says_that_nothing_was_checked(self, run: Path) -> None:
        before = diagnose(open_run(run))
        assert before.verdict == "supported" and not before.incidents[0].experiments
        store_proof(run, replace(PROOF, date="2025-03-01"), ())
        after = diagnose(open_run(run))
        (one,) = after.incidents
        assert after.verdict == one.verdict == "supported"
        assert one.root_cause and one.remedy == (Change("skip", ((312, 313),)),)
        assert one.proof == f"as proven on 2025-03-01, replays gone (proof {proof_hash(PROOF)})"
        page = render(after)
        (row,) = [line for line in page.splitlines() if line.startswith("| R1 ")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:4] == ["R1", "mask the rare tokens of batches [312, 313)", "cured (not checked)", "3.1 %"]
        assert f"As proven on 2025-03-01, replays gone (proof {proof_hash(PROOF)})." in page
        assert "Shown by replays" not in page and "(224 steps in total)" in page

    def test_of_an_earlier_version_names_no_day(self, run: Path) -> None:
        put(run, book({key: value for key, value in raw(experiments=as_json((NULL, MASK))).items() if key != "date"}))
        (one,) = diagnose(open_run(run)).incidents
        assert one.proof.startswith("as proven on a day that the file does not name, replays gone")

    def test_of_another_incident_takes_up_nothing(self, run: Path) -> None:
        for changed in ({"onset_step": 311}, {"attempt": 1}, {"kind": "loss_drop"}, {"discarded": True}):
            store_proof(run, replace(PROOF, incident=replace(PROOF.incident, **changed)), ())
            (one,) = diagnose(open_run(run)).incidents
            assert one.verdict == "supported" and not one.experiments and not one.proof

    def test_a_cause_that_no_panel_suggests_is_not_taken_up(self, run: Path) -> None:
        mask = replace(MASK, outcome="persists")
        other = replace(MASK, role="R3", changes=(Change("replace", ((312, 313),)),), run="p/R3")
        store_proof(run, replace(PROOF, cause="garbage_data", experiments=(NULL, mask, other)), ())
        drafted = diagnose(open_run(run))
        (one,) = drafted.incidents
        assert not one.proof and not one.experiments and "concentrates tokens" in one.root_cause
        assert any("no panel suggests garbage_data" in note for note in drafted.notes)

    @pytest.mark.parametrize("verdict", ["refuted", "interaction", "undecided", "not_reproducible"])
    def test_what_names_no_cause_is_only_noted(self, run: Path, verdict: Any) -> None:
        before = diagnose(open_run(run)).incidents[0]
        store_proof(run, replace(PROOF, verdict=verdict, cause="", text="the replays say otherwise"), ())
        drafted = diagnose(open_run(run))
        (one,) = drafted.incidents
        assert (one.verdict, one.root_cause, one.experiments) == ("supported", before.root_cause, ())
        (note,) = [note for note in drafted.notes if "proof.json" in note]
        assert f"{verdict} of the incident at step 312 was not taken up, only as proven" in note

    def test_single_replays_are_shown_and_decide_nothing(self, run: Path) -> None:
        store_proof(run, add_experiment(None, PROOF.incident, replace(MASK, role="replay")), ())
        (one,) = diagnose(open_run(run)).incidents
        assert one.verdict == "supported" and one.root_cause and not one.proof
        (shown,) = one.experiments
        assert (shown.role, shown.outcome, shown.unchecked) == ("replay", "cured", "replays gone")


DAMAGED: list[str | bytes] = [
    "",
    "{",
    "[]",
    "null",
    "\x00\x00",
    b"\xff\xfe",
    "{}",
    '{"proofs": 3}',
    '{"proofs": [3]}',
    '{"proofs": {"a": 1}}',
    "[" * 100_000,
    '{"proofs": ' + "[" * 100_000 + "}",
    book(raw(verdict="probably")),
    book(raw(verdict=["confirmed"])),
    book(raw(verdict="confirmed", cause="")),
    book(raw(cause="gremlins")),
    book(raw(cause="../../etc/passwd")),
    book(raw(incident={"kind": "loss_spike", "onset_step": "312", "attempt": 0, "discarded": False})),
    book(raw(incident={"kind": "loss_spike", "onset_step": True, "attempt": 0, "discarded": False})),
    book(raw(incident={"kind": "loss_spike", "onset_step": 312, "attempt": None, "discarded": False})),
    book(raw(incident={"kind": "loss_spike", "onset_step": 312, "attempt": 0})),
    book(raw(incident="loss_spike")),
    book(raw(experiments=[{"role": "R9", "changes": [], "outcome": "cured", "text": ""}])),
    book(raw(experiments=[{"role": "R1", "changes": "mask", "outcome": "cured", "text": ""}])),
    book(raw(experiments=[{"role": "R1", "changes": [], "outcome": "cured", "text": "", "seconds": 10**400}])),
    book(raw(experiments=[{"role": "R1", "changes": [], "outcome": "cured", "text": "", "steps": 1.5}])),
]


class TestHostile:
    @pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
    def test_a_damaged_file_is_a_note_and_no_more(self, run: Path, text: str | bytes) -> None:
        put(run, text)
        with pytest.raises(UnreadableInput):
            load_proofs(open_run(run))
        assert earlier_proofs(open_run(run)) == ()
        found = diagnose(open_run(run))
        assert found.verdict == "supported" and not found.incidents[0].experiments
        (note,) = [note for note in found.notes if "proof.json" in note]
        assert "\n" not in note and len(note) < 1000

    def test_a_file_too_large_is_not_read(self, run: Path) -> None:
        put(run, "")
        os.truncate(run / FILE, 2**40)
        assert any("proof.json" in note for note in diagnose(open_run(run)).notes)

    @pytest.mark.parametrize("target", ["file", "folder"])
    def test_a_link_out_of_the_run_is_neither_followed_nor_written_through(
        self, run: Path, tmp_path: Path, target: str
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "proof.json").write_text(book(raw()))
        place = run / FILE
        if target == "file":
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(outside / "proof.json")
        else:
            for file in place.parent.glob("*") if place.parent.exists() else ():
                file.unlink()
            if place.parent.exists():
                place.parent.rmdir()
            place.parent.symlink_to(outside)
        try:
            found = diagnose(open_run(run))
            assert found.verdict == "supported" and any("leads outside" in note for note in found.notes)
            with pytest.raises(CannotWrite, match="leads outside"):
                store_proof(run, replace(PROOF, text="changed"), ())
            assert (outside / "proof.json").read_text() == book(raw())
        finally:
            (place if target == "file" else place.parent).unlink()

    def test_words_do_nothing_to_a_page_or_a_terminal(self, run: Path) -> None:
        evil = "\x1b[31mred\u202e\x07 <script>alert(1)</script> [x](javascript:y) {{ 7*7 }} | a | b\n# Heading\n\n---"
        one = {"role": "replay", "changes": [evil], "outcome": "cured", "text": evil, "run": f"../../{evil}"}
        null = {**one, "role": "R0", "outcome": "persists", "run": f"{evil}/R0"}
        mask = {**one, "role": "R1", "changes": ["mask=312:313"], "tests": [evil], "run": evil}
        put(run, book(raw(text=evil, experiments=[null, mask, one])))
        found = diagnose(open_run(run))
        assert found.verdict == "supported" and len(found.incidents[0].experiments) == 3
        page = render(found)
        lines = "\n".join("".join(span.text for span in line) for line in summarize(found))
        for text in (page, lines):
            assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
        assert "<script>" not in page
        assert "\n# Heading" not in page and "](javascript" not in page
        assert "\x1b" not in found.to_json() and "\u202e" not in found.to_json()

    def test_huge_figures_and_texts_stay_in_bounds(self, run: Path) -> None:
        one = {"role": "R1", "changes": ["x" * 10**6], "outcome": "", "text": "y" * 10**6, "excess": 1e308}
        one |= {"role": "replay", "steps": 10**300, "from_step": -(10**300)}
        put(run, book(raw(text="z" * 10**6, experiments=[one])))
        found = diagnose(open_run(run))
        assert found.incidents[0].experiments[0].steps == 10**300
        assert len(render(found)) < 200_000
        assert Diagnosis(**vars(found)).to_json()
