"""Columns of numbers in the spellings of people: read whole, or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postmortem.run.rows import Chunk
from postmortem.run.spellings import read_spelled
from postmortem.run.table import table_of
from postmortem.run.values import LabelCells, cells_of


def _read(cells: Sequence[object]) -> list[float | None] | None:
    column = read_spelled(cells)
    if column is None or column.numbers.logged is None:
        return None
    pairs = zip(column.numbers.value.tolist(), column.numbers.logged.tolist(), strict=True)
    return [value if logged else None for value, logged in pairs]


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["2,31", "2", None, "1,5e-3"], [2.31, 2.0, None, 0.0015]),
        (["0,512", "0,498"], [0.512, 0.498]),
        (["0,00012", "0,0001", "9e-05", "0"], [0.00012, 0.0001, 0.00009, 0.0]),
        (["12,345", "11,2"], [12.345, 11.2]),
        (["998", "999", "1,000", "1,001"], [998.0, 999.0, 1000.0, 1001.0]),
        (["1,234,567", "20"], [1234567.0, 20.0]),
        (["1,234.5", "1,300.25"], [1234.5, 1300.25]),
        (["1/900", "2/900", " 3 / 900"], [1.0, 2.0, 3.0]),
        (["2,31", "oops", "2,30"], [2.31, None, 2.3]),
        (["1,234", "1,233"], None),  # either of two numbers
        (["2,31", "2.31"], None),
        (["2,31", "2,31,5"], None),
        (["1/2", "1/3"], None),
        (["2,31", "oops", "oops"], None),
    ],
)
def test_a_column_is_read_in_one_spelling_or_none(cells: list[object], numbers: list[float | None] | None) -> None:
    assert _read(cells) == numbers


def test_another_column_tells_what_a_comma_is() -> None:
    columns = {"a": ["1,234", "1,233"], "b": ["2,31", "2,3"]}
    table = table_of([Chunk(2, {name: cells_of(cells, label=False)[0] for name, cells in columns.items()})], "x.csv")
    a = table.numbers("a")
    assert a is not None and a.value.tolist() == [1.234, 1.233]
    assert len(table.notes) == 2 and "decimal commas" in table.notes[0]


def test_labels_stay_text() -> None:
    cells = cells_of(["1/900", "2/900"], label=True)[0]
    table = table_of([Chunk(2, {"batch_hash": cells, "own": cells})], "x.csv", (), frozenset({"own"}))
    assert table.numbers("batch_hash") is None and table.numbers("own") is None and table.notes == ()


def test_a_column_in_two_spellings_is_text_in_each_chunk() -> None:
    texts = [["2.31", "2.30"], ["2,29", "2,28"]]
    table = table_of([Chunk(2, {"x": cells_of(cells, label=False)[0]}) for cells in texts], "x.csv")
    assert table.numbers("x") is None and table.objects("x").tolist() == [2.31, 2.30, "2,29", "2,28"]
    assert table.notes == ("x.csv: column x is written in more than one way: not read as numbers",)


@example(values=[0.0, 0.0, 1.0, 5e-324], cut=3)
@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20), cut=st.integers(0, 20))
def test_decimal_commas_are_the_same_numbers_in_any_chunks(values: list[float], cut: int) -> None:
    texts = [repr(value).replace(".", ",") for value in values]
    chunks = [Chunk(len(t), {"x": cells_of(t, label=False)[0]}) for t in (texts[:cut], texts[cut:]) if t]
    read = table_of(chunks, "x.csv").numbers("x")
    if read is None:  # of all texts, each may also be thousands
        assert any(isinstance(chunk.columns["x"], LabelCells) for chunk in chunks)
        return
    np.testing.assert_array_equal(read.value, values)
    assert all(math.isnan(a) == math.isnan(b) for a, b in zip(read.value, values, strict=True))
