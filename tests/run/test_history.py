"""Keys, segments, the effective history."""

from __future__ import annotations

import numpy as np

from postmortem.run.history import RowKeys, Segment, history_view, segments
from postmortem.run.values import Numbers


def _keys(step: list[int], attempt: list[int] | None = None, rank: list[int] | None = None) -> RowKeys:
    def array(values: list[int] | None) -> np.ndarray | None:
        return None if values is None else np.array(values, np.int64)

    return RowKeys(np.array(step, np.int64), array(attempt), array(rank))


def test_segments_say_what_a_later_attempt_repeated() -> None:
    assert segments({0: (0, 9), 1: (6, 20), 2: (30, 40)}) == (
        Segment(0, 0, 9, 6, True),
        Segment(1, 6, 20, 21, False),
        Segment(2, 30, 40, 41, False),
    )


def test_a_rollback_over_two_attempts_discards_both() -> None:
    spans = segments({0: (0, 9), 1: (6, 20), 2: (4, 8)})
    assert [s.kept_until for s in spans] == [4, 4, 9] and [s.discarded for s in spans] == [True, True, False]


def test_effective_history_and_lineage() -> None:
    keys = _keys([0, 1, 2, 3, 2, 3, 4], [0, 0, 0, 0, 1, 1, 1])
    values = Numbers(np.arange(7.0), None)
    starts = {0: 0, 1: 2}
    step, value = history_view(keys, starts, None).numbers(values, None)
    assert step.tolist() == [0, 1, 2, 3, 4] and value.tolist() == [0, 1, 4, 5, 6]
    step, value = history_view(keys, starts, 0).numbers(values, None)
    assert step.tolist() == [0, 1, 2, 3] and value.tolist() == [0, 1, 2, 3]


def test_the_last_logged_value_of_a_step_wins_in_each_column() -> None:
    keys = _keys([0, 1, 1, 1, 2])
    logged = np.array([True, True, True, False, True])
    step, value = history_view(keys, {0: 0}, None).numbers(Numbers(np.arange(5.0), logged), None)
    assert step.tolist() == [0, 1, 2] and value.tolist() == [0, 2, 4]


def test_ranks_are_averaged_and_non_finite_values_propagate() -> None:
    keys = _keys([0, 0, 1, 1, 2, 2], rank=[1, 0, 0, 1, 0, 1])
    values = Numbers(np.array([1.0, 3.0, np.nan, 1.0, np.inf, 1.0]), None)
    seen = history_view(keys, {0: 0}, None)
    step, value = seen.numbers(values, None)
    assert step is seen.row_steps
    np.testing.assert_array_equal(value, [2.0, np.nan, np.inf])
    assert seen.numbers(values, 1)[1].tolist() == [1.0, 1.0, 1.0]


def test_fully_logged_columns_share_their_steps() -> None:
    seen = history_view(_keys([3, 1, 2, 2]), {0: 1}, None)
    a, b = seen.numbers(Numbers(np.arange(4.0), None), None), seen.numbers(Numbers(np.ones(4), None), None)
    assert a[0] is b[0] and a[0].tolist() == [1, 2, 3] and a[1].tolist() == [1, 3, 0]


def test_objects() -> None:
    seen = history_view(_keys([1, 0, 1]), {0: 0}, None)
    step, value = seen.objects(np.array(["a", None, "b"], object), None)
    assert step.tolist() == [1] and value.tolist() == ["b"]
