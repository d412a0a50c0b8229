"""Sentences, lists and figures."""

from __future__ import annotations

from postmortem.report import wording


def test_a_sentence_begins_and_ends_as_one_does() -> None:
    assert wording.sentence("loss rose") == "Loss rose."
    assert wording.sentence("grad_norm rose!") == "grad_norm rose!"
    assert wording.sentence("") == ""
    assert wording.sentence("a|b *c*\x1b[0m") == "A|b *c*\ufffd[0m."


def test_lists_have_joints() -> None:
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
    assert wording.listing(["a"]) == "a" and wording.listing([]) == ""


def test_three_in_a_row_are_drawn_together() -> None:
    assert wording.hypotheses([1, 4, 5, 6, 7]) == "H1 and H4–H7"
    assert wording.hypotheses([2, 1, 5]) == "H1, H2 and H5"
