"""Sentences, lists and figures."""

from __future__ import annotations

from postmortem.report import wording
from postmortem.text import count


def test_a_sentence_begins_and_ends_as_one_does() -> None:
    assert wording.as_sentence("loss rose") == "Loss rose."
    assert wording.as_sentence("grad_norm rose!") == "grad_norm rose!"
    assert wording.as_sentence("") == ""
    assert wording.as_sentence("a|b *c*\x1b[0m") == "A|b *c*\ufffd[0m."


def test_lists_have_commas_and_one_and() -> None:
    assert wording.and_list(["a", "b", "c"]) == "a, b and c"
    assert wording.and_list(["a"]) == "a" and wording.and_list([]) == ""


def test_three_numbers_in_a_row_become_a_range() -> None:
    assert wording.hypothesis_numbers([1, 4, 5, 6, 7]) == "H1 and H4–H7"
    assert wording.hypothesis_numbers([2, 1, 5]) == "H1, H2 and H5"


def test_a_count_takes_the_plural_of_its_noun() -> None:
    assert [count(1, "batch"), count(3, "batch"), count(2000, "row")] == ["1 batch", "3 batches", "2,000 rows"]
    assert [count(0, "loss"), count(1, "loss"), count(2, "process")] == ["0 losses", "1 loss", "2 processes"]
