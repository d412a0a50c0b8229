"""null, number, non-finite, label: kept apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from postmortem.run.arrow import from_arrow, to_arrow
from postmortem.run.values import LabelCells, Numbers, cells_of, parse_number


@pytest.mark.parametrize("text", ["", " ", "None", "null", "NULL", "N/A", "NA", "-"])
def test_null_tokens(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize("text", ["NaN", "nan", "-nan", "inf", "-inf", "Infinity", "-Infinity", "1e400"])
def test_non_finite_tokens(text: str) -> None:
    value = parse_number(text)
    assert value is not None and not math.isfinite(value)


@pytest.mark.parametrize("value", ["abc", [], {}, "1,5", "12.5.1"])
def test_words_are_no_numbers(value: object) -> None:
    with pytest.raises(ValueError, match=r"could not convert|not a number"):
        parse_number(value)


def test_huge_integers() -> None:
    assert parse_number(10**400) == math.inf and parse_number(-(10**400)) == -math.inf


def test_columns() -> None:
    cells, dropped = cells_of(["1", "", "NaN", "ERR", "-inf"], label=False)
    assert isinstance(cells, Numbers) and cells.logged is not None and dropped == 1
    assert cells.logged.tolist() == [True, False, True, False, True]
    np.testing.assert_array_equal(cells.value[cells.logged], [1.0, math.nan, -math.inf])
    words, _ = cells_of(["a", "b", "1", None], label=False)
    assert isinstance(words, LabelCells) and words.value.tolist() == ["a", "b", "1", None] and words.nulls == 1
    hashes, _ = cells_of(["0012", "0013"], label=True)
    assert isinstance(hashes, LabelCells) and hashes.value.tolist() == ["0012", "0013"]


def test_arrow_keeps_null_and_nan_apart() -> None:
    pa = pytest.importorskip("pyarrow")
    array = pa.array([1.0, None, math.nan, 4.0, 5.0, 6.0, None, 8.0, 9.0, None])
    for piece, logged in ((array, [1, 0, 1, 1, 1, 1, 0, 1, 1, 0]), (array.slice(2), [1, 1, 1, 1, 0, 1, 1, 0])):
        cells = from_arrow(piece, label=False)
        assert isinstance(cells, Numbers) and cells.logged is not None
        assert cells.logged.tolist() == [bool(x) for x in logged]
    back = to_arrow(from_arrow(array, label=False), integers=False)
    assert back.null_count == 3 and math.isnan(back[2].as_py()) and back[1].as_py() is None


def test_arrow_types() -> None:
    pa = pytest.importorskip("pyarrow")
    for array, expected in [
        (pa.array([1, 2], pa.int32()), [1.0, 2.0]),
        (pa.array([True, False]), [1.0, 0.0]),
        (pa.array(["1", "2"]), [1.0, 2.0]),
        (pa.array(["1", "2"]).dictionary_encode(), [1.0, 2.0]),
        (pa.array([1_000_000, 2_000_000], pa.timestamp("us")), [1.0, 2.0]),
        (pa.array([1.5, 2.5], pa.float32()), [1.5, 2.5]),
        (pa.array([1.5, 2.5], pa.float16()), [1.5, 2.5]),
    ]:
        cells = from_arrow(array, label=False)
        assert isinstance(cells, Numbers) and cells.value.tolist() == expected
    assert isinstance(from_arrow(pa.array([[1], [2, 3]]), label=False), LabelCells)
    assert isinstance(from_arrow(pa.array(["1"]), label=True), LabelCells)
    assert isinstance(to_arrow(cells_of([[1], "x"], label=True)[0], integers=False), pa.StringArray)
