"""The terminal summary."""

from __future__ import annotations

from dataclasses import replace

import pytest

from postmortem.report import summarize
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


def test_too_few_rows_are_no_clean_bill() -> None:
    short = clean()
    short = replace(short, run=replace(short.run, rows=2))
    (line,) = text(summarize(short))
    assert line == (
        "clean-000  no incident: too few rows for a baseline (2): only non-finite values could be detected, and "
        "there are none"
    )


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
