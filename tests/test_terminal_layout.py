"""Lines for a terminal: nothing is cut off, and a pipe gets them as they are."""

from __future__ import annotations

import pytest

from postmortem.terminal_layout import Line, Span, in_ascii, joined, labeled, table, wrap

SENTENCE = "the panels support one cause; only a replay can confirm it"
ROWS = [("name", "n", "what"), ("x" * 30, "5", SENTENCE), ("b", "12", "")]


def words(lines: list[Line]) -> str:
    return " ".join(" ".join(map(joined, lines)).split())


def test_without_a_width_nothing_is_wrapped() -> None:
    assert wrap(SENTENCE, None, head=(Span("  - "),)) == [(Span("  - "), Span(SENTENCE))]
    assert [joined(line) for line in labeled("next", SENTENCE, None)] == [f"next    {SENTENCE}"]
    assert [joined(line) for line in table(ROWS, None, right=(1,))] == [
        "name                             n  what",
        f"{'x' * 30}   5  {SENTENCE}",
        "b                               12",
    ]


def test_further_lines_are_indented_as_deep_as_the_first() -> None:
    assert [joined(line) for line in labeled("next", SENTENCE, 40, hang=2)] == [
        "next    the panels support one cause;",
        "          only a replay can confirm it",
    ]
    (first, *_) = wrap((Span("only", "bold"), Span(" a replay " * 9, "dim")), 40)
    assert first[0] == Span("only", "bold") and {span.style for span in first[1:]} == {"dim"}


@pytest.mark.parametrize("width", [30, 40, 80])
def test_all_words_stay_and_fit(width: int) -> None:
    for lines in (wrap(SENTENCE, width), labeled("a label that is long", SENTENCE, width), table(ROWS, width)):
        assert max(len(joined(line)) for line in lines) <= width
        assert "…" not in words(lines)
    assert words(labeled("long label", SENTENCE, width)) == f"long label {SENTENCE}"
    assert "".join(joined(line).replace(" ", "") for line in wrap("y" * 200, width)) == "y" * 200


def test_a_label_without_room_beside_it_is_above_its_text() -> None:
    assert [joined(line) for line in labeled("19-spike-001", "cured", 80)] == ["19-spike-001", "  cured"]


def test_signs_in_ascii() -> None:
    assert in_ascii((Span("312 → 314, ±0.1 × 2", "bold"),)) == (Span("312 -> 314, +/-0.1 x 2", "bold"),)
