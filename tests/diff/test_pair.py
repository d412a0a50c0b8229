"""Rows that belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.diff import diff_runs
from postmortem.diff.caveats import independence_line
from postmortem.diff.pair import Pair, once, same_bits
from postmortem.run import Run
from postmortem.sources import open_run
from tests.makers import write_run


def run(root: Path, hashes: list[str] | None = None, index: list[int] | None = None, **more: Any) -> Run:
    n = len(hashes or index or [])
    batches = {k: v for k, v in (("batch_hash", hashes), ("batch_index", index)) if v is not None}
    return open_run(write_run(root, {"loss": np.linspace(3, 2, n)}, batches=batches, **more))


@given(st.lists(st.integers(-3, 3), max_size=30))
def test_a_batch_and_its_occurrence_have_one_code(codes: list[int]) -> None:
    made = once(np.array(codes, np.int64))
    seen: dict[int, int] = {}
    keys = []
    for code in codes:
        keys.append((code, seen.get(code, 0)))
        seen[code] = seen.get(code, 0) + 1
    assert len(set(made.tolist())) == len(codes)
    assert [made[i] == made[j] for i in range(len(keys)) for j in range(len(keys))] == [
        keys[i] == keys[j] for i in range(len(keys)) for j in range(len(keys))
    ]


def test_repeated_batches_are_matched_in_turn(tmp_path: Path) -> None:
    pair = Pair(run(tmp_path / "a", ["x", "y", "x", "z"]), run(tmp_path / "b", ["y", "x", "x", "x"]))
    found = pair.batches
    assert found is not None and list(zip(found.a.tolist(), found.b.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 2)]


def test_the_index_stands_in_for_a_hash_and_that_is_said(tmp_path: Path) -> None:
    d = diff_runs(run(tmp_path / "a", index=list(range(40))), run(tmp_path / "b", index=[*range(20), *range(30, 50)]))
    assert d.alignment is not None and d.alignment.by == "batch_index"
    assert d.alignment.only_a == ((20, 30),) and d.alignment.only_b == ((40, 50),)
    assert d.b.skipped == ((20, 30),)
    assert "whether batches with the same index have the same data: no batch_hash in a and b" in d.cannot_tell


def test_hashes_of_two_functions_are_not_compared(tmp_path: Path) -> None:
    a = run(tmp_path / "a", ["x", "y"], manifest={"hashes": {"batch": "v1"}})
    b = run(tmp_path / "b", ["p", "q"], manifest={"hashes": {"batch": "v2"}})
    d = diff_runs(a, b)
    assert d.verdict == "identical" and d.alignment is None and [c.name for c in d.columns] == ["loss"]
    assert any("different hash functions" in line for line in d.cannot_tell)


def test_two_runs_without_a_common_batch_are_independent(tmp_path: Path) -> None:
    a = run(tmp_path / "a", ["x", "y"], manifest={"seed": 1})
    b, same = (run(tmp_path / hashes, list(hashes), manifest={"seed": 2}) for hashes in ("pq", "xq"))
    d = diff_runs(a, b)
    (line,) = independence_line(d.a, d.b, d.alignment, "recovered")
    assert line.startswith("the runs are independent (seeds 1 and 2, no batch in common)") and "same level" in line
    assert "different levels" in independence_line(d.a, d.b, d.alignment, "lingering")[0]
    assert independence_line(d.a, d.b, d.alignment, "different") == ()
    assert independence_line(d.a, d.a, d.alignment, "recovered") == ()
    d = diff_runs(a, same)
    assert independence_line(d.a, d.b, d.alignment, "recovered") == ()


@pytest.mark.parametrize(
    ("x", "y", "same"), [(0.0, -0.0, False), (np.nan, -np.nan, True), (np.inf, np.inf, True), (1.0, 1.0 + 2e-16, False)]
)
def test_bits(x: float, y: float, same: bool) -> None:
    assert same_bits(np.array([x]), np.array([y])).tolist() == [same]
