"""The small helpers that every room shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem import atomic
from postmortem.errors import MissingExtra, UnreadableInput
from postmortem.series import Series
from postmortem.text import count, listed, number, plain, row_range, times


@given(st.text())
def test_plain_text_can_do_nothing_to_a_terminal(name: str) -> None:
    safe = plain(name)
    assert len(safe) <= 200
    assert all(char.isprintable() or char in "\u200c\u200d\u00a0" or char.isspace() for char in safe)
    assert not set(safe) & set("\x1b\n\r\t\x07\u202e\u2028")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.31, "2.31"),
        (47.2, "47.2"),
        (2.94e-4, "0.000294"),
        (65504.0, "65504"),
        (float("nan"), "NaN"),
        (3, "3"),
        (None, "none"),
        (float("-inf"), "-inf"),
        (1.92e8, "1.92e+08"),
    ],
)
def test_numbers_are_read_as_people_read_them(value: float | None, text: str) -> None:
    assert number(value) == text


def test_rows_say_how_many_and_where() -> None:
    assert row_range(range(2000)) == "2,000 rows, steps 0–1999"
    assert (row_range((7,)), row_range(np.zeros(0, np.int64))) == ("1 row, step 7", "0 rows")


def test_a_count_has_its_noun_in_the_right_number() -> None:
    assert [count(n, "batch", "batches") for n in (0, 1, 2)] == ["0 batches", "1 batch", "2 batches"]
    assert count(2000, "row") == "2,000 rows"


def test_ratios() -> None:
    assert (times(2.53), times(78.7), times(3e9)) == ("2.5×", "78.7×", "3.0e+09×")


def test_lists_for_people() -> None:
    assert [listed(parts) for parts in ([], ["a"], [1, 2], "abc")] == ["", "a", "1 and 2", "a, b and c"]


def test_atomic_write_replaces_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    atomic.write_text(file, "first")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic.write_text(file, "second")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_atomic_write_keeps_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x")
    file.chmod(0o640)
    atomic.write_text(file, "y")
    assert file.stat().st_mode & 0o777 == 0o640


def test_series_windows_are_half_open_and_missing_rows_are_none() -> None:
    s = Series("loss", np.array([0, 10, 20]), np.array([1.0, 2.0, np.nan]))
    assert s.window(10, 20).step.tolist() == [10]
    assert s.at(10) == 2.0
    assert s.at(11) is None


def test_series_refuses_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="loss"):
        Series("loss", np.array([0, 1]), np.array([1.0]))


def test_errors_say_where_and_what_next() -> None:
    error = UnreadableInput("is empty.", file="metrics.csv", line=3, hint="Write rows.")
    assert str(error) == "metrics.csv:3: is empty. Write rows."
    assert error.exit_code == 3
    assert "pip install '.[train]' in the clone, or 'training-postmortem[train]' once" in str(
        MissingExtra("the lab", "train")
    )
