"""A change and its text: each spells the other."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postmortem.change import Change, Value, Window, merge_windows

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
WORDS = st.from_regex(r"[a-zA-Z][a-zA-Z0-9._-]{0,8}", fullmatch=True)
NUMBERS = st.integers(-(10**15) + 1, 10**15 - 1) | st.floats(allow_nan=False, allow_infinity=False)
WINDOWS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 99)).map(lambda s: (s[0], s[0] + s[1])), max_size=3)
WORDED = st.builds(lambda word, rest: [word, *rest], WORDS, st.lists(NUMBERS, max_size=2))
VALUES = st.lists(NUMBERS, max_size=3) | WORDED


@given(NAMES, WINDOWS, VALUES)
def test_its_text_spells_it(name: str, windows: list[Window], values: list[Value]) -> None:
    change = Change(name, tuple(windows), tuple(values))
    assert Change.from_text(str(change)) == change


@given(NAMES, st.from_regex(r"[^=\s][^=]{0,20}[^=\s]", fullmatch=True), st.text(max_size=30).map(str.strip))
def test_a_setting_keeps_its_value_as_it_stands(name: str, key: str, value: str) -> None:
    change = Change(name, values=(value,), key=key)
    assert Change.from_text(str(change)) == change


@given(st.text(max_size=60))
@example("=:,0")  # a first value that is no word and no number
@example("clip=1e999,2")
def test_any_text_spells_a_change_or_is_one_message(text: str) -> None:
    try:
        change = Change.from_text(text, batches=True)
    except ValueError as error:
        assert ("contains no batch" in str(error) or "a value is missing" in str(error)) and "\n" not in str(error)
    else:
        assert Change.from_text(str(change)) == change


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("distinct", Change("distinct")),
        ("skip=312:314,320:322", Change("skip", ((312, 314), (320, 322)))),
        ("replace=312:313@400", Change("replace", ((312, 313),), (400,))),
        ("drop-rows=312:313@0,1", Change("drop-rows", ((312, 313),), (0, 1))),
        ("lr-scale=0.5", Change("lr-scale", values=(0.5,))),
        ("moments=estimated:20", Change("moments", values=("estimated", 20))),
        ("set=optimizer.clip=0.1", Change("set", values=("0.1",), key="optimizer.clip")),
    ],
)
def test_as_the_page_says(text: str, change: Change) -> None:
    assert Change.from_text(text) == change and str(change) == text


def test_a_batch_by_itself_is_a_window_where_batches_are_meant() -> None:
    assert Change.from_text("skip=312,320:322", batches=True) == Change("skip", ((312, 313), (320, 322)))
    assert Change.from_text("noise=312") == Change("noise", values=(312,))


def test_windows_that_touch_are_one() -> None:
    assert merge_windows([(5, 6), (1, 3), (3, 4)]) == ((1, 4), (5, 6))
