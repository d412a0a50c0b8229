"""The terminal summary."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from postmortem.diagnosis import OtherColumn
from postmortem.report import render, summarize
from postmortem.terminal_layout import Line, joined
from tests.report.factory import CASES, clean, hostile, nan, several, spike


def text(lines: tuple[Line, ...]) -> list[str]:
    return [joined(line) for line in lines]


def test_what_when_and_why() -> None:
    lines = text(summarize(spike()))
    assert lines[0] == "19-spike-001  supported: the panels support one cause; only a replay can confirm it"
    assert "loss spike  onset 312 → peak 313 → recovery 360" in lines
    assert any(line.startswith("██████████████▌   strong    long_tail_tokens  Long-tail") for line in lines)


def test_other_outcomes() -> None:
    assert any(line.endswith("peak 312 → did not recover") for line in text(summarize(nan())))
    assert any("2 (learning-rate discontinuity, step 700), 3" in line for line in text(summarize(several())))
    assert text(summarize(clean())) == ["clean-000  no incident: nothing in the log departs from its own baseline"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_the_terminal(case: str, width: int) -> None:
    assert all(len(line) <= width for line in text(summarize(CASES[case](), width=width)))


def test_ascii_where_the_terminal_knows_no_more() -> None:
    assert all(line.isascii() for line in text(summarize(spike(), unicode=False)))


def test_nothing_from_the_run_reaches_the_terminal() -> None:
    assert not any("\x1b" in line or "\n" in line or "\u202e" in line for line in text(summarize(hostile())))


def test_nothing_is_cut_off() -> None:
    named = replace(spike(), run_id="sweep-" + "x" * 150)
    for width in (40, 80):
        lines = text(summarize(named, width=width))
        assert "…" not in "".join(lines)
        assert "x" * 150 in "".join(line.strip() for line in lines[:6])
        assert "only a replay can confirm it" in " ".join(" ".join(lines).split())
    assert "x" * 150 in text(summarize(named))[0]


def test_what_was_not_judged_is_no_clean_bill() -> None:
    reasons = ("no loss was recognized among a, b; name it: --map loss=a", "kl is NaN from step 9 to its end")
    short = replace(clean(), verdict="not_judged", not_judged=reasons)
    assert text(summarize(short)) == [f"clean-000  not judged: {'; '.join(reasons)}"]


def test_what_the_verdict_does_not_cover_is_beside_it() -> None:
    lines = text(summarize(replace(clean(), not_covered=("eval_loss has only 3 rows",))))
    assert lines[1:] == ["Not covered: eval_loss has only 3 rows."]
    case = spike()
    moved = replace(
        case.incidents[0], other_moved=(OtherColumn("kl", 312, 0.4, 0.03), OtherColumn("r", 313, math.nan, 1))
    )
    told = "Not understood, but moved in the incident: kl from 0.03 to 0.4, r from 1 to NaN."
    case = replace(case, incidents=(moved,))
    assert told in text(summarize(case)) and told in render(case).partition("## 3.")[2].partition("## 4.")[0]


def test_notes_of_the_reader_reach_the_terminal() -> None:
    noted = replace(clean(), notes=tuple(f"log.csv: note {n}" for n in range(8)))
    assert text(summarize(noted))[1:] == [
        "",
        *(f"- log.csv: note {n}" for n in range(5)),
        "- and 3 more notes in the report",
    ]
    assert text(summarize(replace(noted, notes=noted.notes[:5])))[-1] == "- log.csv: note 4"


@pytest.mark.parametrize(
    ("attempt", "before", "later"),
    [(0, "a", "later b, and 1 after it"), (1, "b, and 1 before", "later c"), (2, "c, and 2 before", "")],
)
def test_a_resume_belongs_to_the_attempt_that_it_began(attempt: int, before: str, later: str) -> None:
    case = spike()
    run = replace(case.run, resumes=("a", "b", "c"), resume_attempts=(0, 1, 2))
    lines = text(summarize(replace(case, run=run, incidents=(replace(case.incidents[0], attempt=attempt),))))
    incident = lines.index(
        "The loss rose from 2.31 to 5.84 within two steps of step 312 and settled at 3.40 by step 360."
    )
    assert lines[incident + 1] == later
    assert lines[incident - 1] == before


def test_what_was_rolled_back_did_not_just_end() -> None:
    case = spike()
    one = replace(case.incidents[0], outcome="unresolved", recovery_step=None)
    ends = [replace(case, incidents=(replace(one, discarded=d),)) for d in (False, True)]
    assert any(line.endswith("→ the log ends first") for line in text(summarize(ends[0])))
    assert any(line.endswith("→ rolled back first") for line in text(summarize(ends[1])))


def test_a_non_finite_gradient_is_no_non_finite_loss() -> None:
    case = nan()
    gradient = replace(case, incidents=(replace(case.incidents[0], title="non-finite grad_norm"),))
    assert any(line.startswith("non-finite grad_norm  onset") for line in text(summarize(gradient)))
