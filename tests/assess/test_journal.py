"""What the journal says reaches the report: each kind of event is told, weighed and answered."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postmortem.assess.aftermath import aftermath
from postmortem.assess.detection import detect
from postmortem.case import Case
from postmortem.causes import causes
from postmortem.pipeline import diagnose
from postmortem.report import render
from postmortem.run.journal import KINDS
from postmortem.sources import open_run
from tests.journals import AT, Journal, event, rolled_back, spike, worst
from tests.makers import STEPS, healthy, write_checkpoints, write_run
from tests.samples import sample

PAGE = (Path(__file__).parents[2] / "docs" / "run-format.md").read_text()
# An event just before the spike, or where it matters, and what the report says of it.
EVENTS: dict[str, tuple[dict[str, Any], str]] = {
    "run_start": ({"attempt": 0}, "attempt 0: steps 0–399, rolled back later"),
    "reopen": ({"attempt": 1}, "attempt 1: steps 300–499"),
    "resume": (
        {"step": 300, "from_step": 300, "checkpoint": "a.pt", "restored": ["model"], "missing": ["optimizer", "rng"]},
        "Resumed from step 300 (a.pt, without optimizer, rng)",
    ),
    "rollback": (
        {"from_step": 399, "to_step": 300, "skip": [[350, 362]], "reason": "loss_spike_sustained"},
        "rolled back from step 399 to step 300, skipping batches [350, 362): loss_spike_sustained.",
    ),
    "checkpoint": ({"step": 340, "role": "rollback", "path": "rollback/step-00000340.pt"}, "rollback/step-00000340.pt"),
    "checkpoint_deleted": ({"role": "rollback", "path": "rollback/step-00000200.pt"}, "rollback/step-00000340.pt"),
    "checkpoint_failed": (
        {"role": "rollback", "path": "rollback/step-00000345.pt", "reason": "No space left"},
        "the save of checkpoint rollback/step-00000345.pt failed: No space left",
    ),
    "checkpoint_refused": ({"path": "rollback/x.pt", "reason": "torn"}, "checkpoint rollback/x.pt was refused: torn"),
    "retention_failed": ({"reason": "read-only"}, "old checkpoint could not be removed: read-only"),
    "best_k_refused": ({"metric": "dev_loss", "value": "NaN"}, "the value NaN of dev_loss ranked no checkpoint"),
    "incident": ({"kind": "loss", "value": 7.5}, "the training noticed “loss” (7.5)"),
    "config_change": ({"key": "beta2", "old": 0.95, "new": 0.999}, "config beta2 changed from 0.95 to 0.999"),
    "data_change": ({"old": "v1", "new": "v2"}, "the data changed from v1 to v2"),
    "lr_reduction": (
        {"old": 3e-4, "new": 1.5e-4, "factor": 0.5, "ramp_steps": 100, "reason": "spike"},
        "learning rate reduced from 0.0003 to 0.00015 (×0.5), back up within 100 steps: spike",
    ),
    "environment_change": (
        {"changed": {"torch": ["2.8", "2.9"]}},
        "the environment changed: torch is 2.9 instead of 2.8",
    ),
    "oom": ({"old": 8, "new": 4, "retried": True}, "out of memory, micro-batch size from 8 to 4, retried"),
    "kill": ({"signal": "SIGTERM", "reason": "third spike"}, "the training was killed by SIGTERM: third spike"),
    "recording_degraded": (
        {"lost_rows": 3, "reason": "disk full", "seconds": 4.5},
        "rows could not be written for 4.5 s, 3 were lost: disk full",
    ),
    "nonfinite_parameters": ({"names": ["head.weight"]}, "head.weight hold NaN or Inf"),
    "token_ids_lost": ({"batches": 2, "reason": "disk full"}, "token ids of 2 batches could not be kept: disk full"),
    "clock_went_back": ({"seconds": 60.0}, "the clock was set back by 60 s"),
    "run_end": ({"status": "failed", "error": "ValueError: bad"}, "the training ended: failed (ValueError: bad)"),
    "node_swapped": ({"host": "a7"}, "event “node_swapped” (host a7)"),  # a name that the format does not have
}
ALL_KEYS = sorted({"retried", "optimizer_reset", *(key for keys, _ in EVENTS.values() for key in keys)} - {"step"})
SEEN_IN_ROWS = {"run_start", "reopen", "checkpoint", "checkpoint_deleted", "rollback", "resume"}


def section(text: str, number: int) -> str:
    return text.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


def test_every_event_of_the_format_is_held_here() -> None:
    table = PAGE.partition("## journal.jsonl")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))
    assert named == set(KINDS) == EVENTS.keys() - {"node_swapped"}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_told(name: str, tmp_path: Path) -> None:
    keys, expected = EVENTS[name]
    rows = rolled_back if name in SEEN_IN_ROWS else spike
    folder = rows(tmp_path / "run", [event(name, **keys)])
    write_checkpoints(folder, {200: 1.0, 340: 1.0})
    if name == "checkpoint_deleted":
        (folder / "rollback" / "step-00000200.pt").unlink()
    assert expected in render(diagnose(open_run(folder))).replace("\\", "")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"step": "x", "time": "y"},
        {key: [[{"a": None}], -1] for key in ALL_KEYS},
    ],
    ids=["no keys", "no step", "other types"],
)
@pytest.mark.parametrize("rows", [spike, rolled_back])
def test_events_without_their_keys_break_nothing(
    keys: dict[str, Any], rows: Callable[..., Path], tmp_path: Path
) -> None:
    """All events in one journal, and each after another one."""
    names = list(EVENTS)
    for folder, part in (("all", names), ("even", names[::2]), ("odd", names[1::2])):
        journal = [{"event": name, "step": AT - 2, **keys} for name in part]
        found = diagnose(open_run(rows(tmp_path / folder, journal)))
        assert found.incidents[0].onset_step == AT and render(found)


def test_texts_of_a_journal_are_harmless(tmp_path: Path) -> None:
    evil = "[x](http://evil) <b>|`\x1b[31m\u202e\n# head"
    names = ("reason", "error", "status", "kind", "key", "old", "new", "path", "checkpoint", "signal", "metric", evil)
    keys = {**dict.fromkeys(names, evil), "names": [evil], "missing": [evil], "changed": {evil: [evil, evil]}}
    journal = [event(name, **keys) for name in (*KINDS, evil)]
    found = diagnose(open_run(rolled_back(tmp_path / "run", [*journal, event("rollback", to_step=300, reason=evil)])))
    text = render(found)
    assert "evil" in text
    assert not re.search(r"(?<!\\)\[x\]\(http|<b>|\x1b|\u202e|^# head", text, re.MULTILINE)
    assert not any(c in line for line in found.run.events for c in "\x1b\u202e\n")


def test_many_events_of_a_kind_are_counted(tmp_path: Path) -> None:
    journal = [event("incident", step, kind="loss") for step in range(100, 340)]
    facts = diagnose(open_run(spike(tmp_path / "run", journal))).run
    assert len(facts.events) == 4 and facts.events[-1] == "and 237 further events of this kind"


ROLLBACK = event("rollback", 300, from_step=399, to_step=300, skip=[[345, 370]], reason="sustained")
RESUME = event("resume", 300, from_step=300, missing=[], checkpoint="rollback/step-00000300.pt")


def test_a_rollback_that_worked(tmp_path: Path) -> None:
    found = worst(rolled_back(tmp_path / "run", [ROLLBACK, RESUME]))
    (done,) = found.done
    resumed = "resumed from step 300 (rollback/step-00000300.pt)"
    assert done == f"{resumed} after a rollback from step 399, skipping batches [345, 370): sustained"
    assert found.since.startswith("The rollback worked: the loss spike did not come back through step 499")
    assert "loss is where it was before" in found.since and "does not show the cause" in found.since
    assert found.skipped == done
    assert all(change.done == done for change in found.changes if "without batches" in change.text)


@pytest.mark.parametrize(
    ("again", "rows", "level", "expected"),
    [
        (4.0, STEPS, 0.0, "The rollback did not work: the loss spike came back at step 350."),
        (0.0, 355, 0.0, "Whether the rollback worked cannot be judged: the rows after it end at step 354."),
        (
            0.0,
            STEPS,
            0.12,
            "The loss spike did not come back through step 499, but there is a level shift at step 320.",
        ),
    ],
    ids=["came back", "too soon", "another"],
)
def test_a_rollback_that_did_not(again: float, rows: int, level: float, expected: str, tmp_path: Path) -> None:
    run = rolled_back(tmp_path / "run", [ROLLBACK, RESUME], again, rows, level)
    found = next(i for i in diagnose(open_run(run)).incidents if i.discarded)
    assert found.since.startswith(expected)


def test_a_loss_that_stays_higher_is_said(tmp_path: Path) -> None:
    run = rolled_back(tmp_path / "run", [ROLLBACK, RESUME])
    calm = diagnose(open_run(run)).incidents[0]
    found = open_run(run)
    incidents = detect(found)
    case = Case(found, next(i for i in incidents if i.discarded), incidents)
    assert calm.verification is not None
    strict = dataclasses.replace(calm.verification, baseline_loss=2.0, epsilon=0.1)
    assert aftermath(case, strict).startswith("The rollback worked in part: the loss spike did not come back through")
    unknown = dataclasses.replace(calm.verification, baseline_loss=None)
    assert "no loss can be compared" in aftermath(case, unknown)


def test_rows_without_an_event_are_judged_too_but_nothing_is_said_to_be_done(tmp_path: Path) -> None:
    found = worst(rolled_back(tmp_path / "run"))
    assert found.done == () and found.since.startswith("The rollback worked")
    assert "Done already" not in render(diagnose(open_run(tmp_path / "run")))


@pytest.mark.parametrize(
    ("action", "cause", "proposal"),
    [
        (event("lr_reduction", AT + 20, factor=0.5), "lr_too_high", "peak learning rate"),
        (event("config_change", AT + 20, key="lr", old=2, new=1), "lr_too_high", "peak learning rate"),
        (event("config_change", AT + 20, key="max_grad_norm", old=2, new=1), "lr_too_high", "clip threshold"),
        (event("data_change", AT + 20, new="v2"), "garbage_data", "Quarantine"),
        (event("config_change", AT + 20, key="dtype", old="fp16", new="bf16"), "fp16_overflow", "Train in bf16"),
    ],
)
def test_what_was_done_is_not_proposed(action: dict[str, Any], cause: str, proposal: str, tmp_path: Path) -> None:
    def remedy(folder: str, journal: Journal) -> Any:
        run = open_run(spike(tmp_path / folder, journal))
        case = Case(run, detect(run)[0], detect(run))
        remedies = next(c for c in causes() if c.slug == cause).remedies(case, {})
        return next(r for r in remedies if proposal in r.text)

    assert remedy("done", [action]).done.startswith("step 370: ") and not remedy("plain", []).done


def test_a_change_after_the_onset_without_a_rollback(tmp_path: Path) -> None:
    found = worst(spike(tmp_path / "run", [event("lr_reduction", AT + 3, factor=0.5)]))
    assert found.done == ("step 353: learning rate reduced (×0.5)",)
    assert found.since.startswith("After the change at step 353, the run settled at")
    late = worst(spike(tmp_path / "late", [event("lr_reduction", AT + 40, factor=0.5)]))
    assert "was over at step" in late.since and "before the change at step 390" in late.since


def test_an_incident_after_the_change_is_said(tmp_path: Path) -> None:
    columns = healthy()
    for first in (AT, AT + 80):
        columns["loss"][first : first + 12] += 4.0
    run = write_run(tmp_path / "run", columns, journal=[event("lr_reduction", AT + 3, factor=0.5)])
    found = next(i for i in diagnose(open_run(run)).incidents if i.onset_step == AT)
    assert found.since == "After the change at step 353, a further incident began: loss spike at step 430."


@pytest.mark.parametrize("action", [event("kill", AT + 9), event("run_end", AT + 9, status="failed")])
def test_an_end_is_no_remedy(action: dict[str, Any], tmp_path: Path) -> None:
    found = worst(spike(tmp_path / "run", [action]))
    assert len(found.done) == 1 and found.since == ""


def test_the_recovered_sample_says_what_was_done_and_that_it_worked() -> None:
    found = diagnose(open_run(sample("19-spike-001-recovered")))
    text = render(found)
    head = text.partition("## 1.")[0]
    assert all(part in head.replace("\\", "") for part in ("from step 361", "[312, 512)", "loss_spike_sustained"))
    remedy, check = section(text, 5), section(text, 6)
    done, _, remains = remedy.partition("What remains:")
    assert "Replay without batches [312, 313)" in done.replace("\\", "") and "from step 361" in done
    assert "Stratify" in remains and "Replay" not in remains and "left out already" in remains
    assert "The rollback worked" in check and "through step 513" in check
    assert "does not show the cause" in check


def test_a_diagnosis_of_before_says_nothing_of_it() -> None:
    found = diagnose(open_run(sample("19-spike-001")))
    old = dataclasses.replace(found.incidents[0], done=(), since="", skipped="")
    text = render(dataclasses.replace(found, incidents=(old,), run=dataclasses.replace(found.run, events=())))
    assert "Done already" not in text and "also says" not in text
