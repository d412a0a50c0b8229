"""Logs that would take far more memory than they are large."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from postmortem.errors import UnreadableInput
from postmortem.run import Run, rows
from postmortem.sources import csv_rows, open_run
from tests.sources.helpers import write

ROWS = [f"{step},{1 / (step + 1)}" for step in range(20)]


def read_within(limit: int, path: Path) -> Run:
    open_run(write(path.parent, "warm_up.csv", "\n".join(("step,loss", *ROWS)).encode()))  # what it imports
    tracemalloc.start()
    try:
        return open_run(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize("cell", [b"7", b"7,", b'"7",'], ids=["digits", "cells", "quoted"])
def test_a_long_line_is_passed_over(cell: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_LINE_LIMIT", 2**18)
    monkeypatch.setattr(csv_rows, "_BLOCK", 2**18)
    lines = ["step,loss", *ROWS[:10], (cell * (2**23 // len(cell))).decode(), *ROWS[10:]]
    run = read_within(12 * 2**20, write(tmp_path, "a.csv", "\n".join((*lines, "")).encode()))
    assert run.row_steps.tolist() == list(range(20))
    assert run.notes[0].startswith("a.csv:12: 1 row was skipped")


def test_a_long_last_line_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_LINE_LIMIT", 2**10)
    lines = "\n".join(("step,loss", *ROWS, "7" * 2**23)).encode()
    run = open_run(write(tmp_path, "a.csv", lines))
    assert len(run.row_steps) == 20 and run.notes[0] == "a.csv:22: the last line is torn and was skipped"


def test_a_header_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableInput, match=r"a\.csv:1: 1000001 columns: no log of a run"):
        read_within(40 * 2**20, write(tmp_path, "a.csv", b"step" + b",x" * 10**6 + b"\n1\n"))
    monkeypatch.setattr(csv_rows, "_LINE_LIMIT", 2**10)
    with pytest.raises(UnreadableInput, match="a header of more than"):
        open_run(write(tmp_path, "b.csv", b"step,loss" + b"x" * 2**11 + b"\n1,2\n"))


def test_names_that_all_repeat_cost_no_more_than_others(tmp_path: Path) -> None:
    names = ["step", "loss", *["x"] * 5000]
    run = open_run(write(tmp_path, "a.csv", "\n".join((",".join(names), *[",".join("1" * 5002)] * 2)).encode()))
    assert {"x", "x#2", "x#5000"} <= set(run.other_columns)
    assert sum("appears twice" in note for note in run.notes) == 1
    assert "a.csv:1: 4,979 more columns like these" in run.notes
    nameless = write(tmp_path, "b.csv", "\n".join(("step,loss" + "," * 5000, "1,1" + "," * 5000)).encode())
    assert sum("has no name" in note for note in open_run(nameless).notes) == 20


def test_rows_that_share_no_columns_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 rows of three cells took 3.6 GB: each column has an array of its own, as long as there are rows."""
    text = "".join(f'{{"step":{i},"loss":1.0,"c{i % 400}":1.0}}\n' for i in range(5_000))
    log = write(tmp_path, "a.jsonl", text.encode())
    assert len(open_run(log).row_steps) == 5_000
    monkeypatch.setattr(rows, "_MOST_EMPTY_CELLS", 10**6)
    with pytest.raises(UnreadableInput, match=r"a\.jsonl: 5,000 rows have 402 columns, but 3 on average"):
        open_run(log)
