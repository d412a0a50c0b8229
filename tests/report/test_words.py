"""Sentences, lists and figures."""

from __future__ import annotations

from postmortem.report import words


def test_a_sentence_begins_and_ends_as_one_does() -> None:
    assert words.sentence("loss rose") == "Loss rose."
    assert words.sentence("grad_norm rose!") == "grad_norm rose!"
    assert words.sentence("") == ""
    assert words.sentence("a|b *c*\x1b[0m") == "A|b *c*\ufffd[0m."


def test_lists_have_joints() -> None:
    assert words.listing(["a", "b", "c"]) == "a, b and c"
    assert words.listing(["a"]) == "a" and words.listing([]) == ""


def test_three_in_a_row_are_drawn_together() -> None:
    assert words.hypotheses([1, 4, 5, 6, 7]) == "H1 and H4–H7"
    assert words.hypotheses([2, 1, 5]) == "H1, H2 and H5"
