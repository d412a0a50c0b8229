"""Attempts of logs that do not name them."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.run.rewinds import attempts_of


def _attempts(
    steps: list[int], values: list[float] | None = None, known: tuple[int, ...] = ()
) -> tuple[list[int], list[str]]:
    step = np.array(steps, np.int64)
    value = np.arange(step.size, dtype=np.float64) if values is None else np.array(values)
    attempt, notes = attempts_of(step, value, np.ones(step.size, np.bool_), known, "x.csv")
    return attempt.tolist(), notes


def test_rows_in_order_are_one_attempt() -> None:
    assert _attempts(list(range(20))) == ([0] * 20, [])


def test_a_rewind_starts_an_attempt() -> None:
    attempt, notes = _attempts([*range(30), *range(20, 50)])
    assert attempt == [0] * 30 + [1] * 30
    assert len(notes) == 1 and "20" in notes[0]


def test_a_rewind_that_does_not_catch_up_counts_too() -> None:
    assert _attempts([*range(30), *range(20, 25)])[0] == [0] * 30 + [1] * 5


def test_two_rewinds() -> None:
    assert _attempts([*range(30), *range(20, 40), *range(10, 60)])[0] == [0] * 30 + [1] * 20 + [2] * 50


def test_unique_steps_out_of_order_are_sorted() -> None:
    steps = np.random.default_rng(0).permutation(100).tolist()
    attempt, notes = _attempts(steps)
    assert attempt == [0] * 100 and "sorted" in notes[0]


def test_shuffled_duplicates_are_no_rewinds() -> None:
    steps = np.random.default_rng(0).integers(0, 60, 100).tolist()
    attempt, notes = _attempts(steps)
    assert attempt == [0] * 100 and "shuffled" in notes[0]


def test_interleaved_writers_are_no_rewinds() -> None:
    steps = [s for i in range(100) for s in (100 + i, 50 + i)]
    attempt, notes = _attempts(steps)
    assert attempt == [0] * 200 and "several writers" in notes[0]


@pytest.mark.parametrize("known", [(), (90,)])
def test_exact_repeats_of_rows_are_no_rewind(known: tuple[int, ...]) -> None:
    steps = [*range(100), *range(90, 100), *range(100, 120)]
    attempt, _ = _attempts(steps, [float(s) for s in steps], known)
    assert max(attempt) == (1 if known else 0)


def test_the_journal_makes_many_jumps_credible() -> None:
    steps = [0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert _attempts(steps, known=(1, 2))[0] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_late_eval_rows_do_not_rewind() -> None:
    step = np.array([*range(50), 10, *range(50, 60)], np.int64)
    logged = np.ones(step.size, np.bool_)
    logged[50] = False
    attempt, notes = attempts_of(step, np.arange(step.size, dtype=np.float64), logged, (), "x")
    assert not attempt.any() and notes == []
