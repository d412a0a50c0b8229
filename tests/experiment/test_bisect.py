"""Bisection: the smallest set, in few probes, whatever the oracle says; and on a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.errors import UsageError
from postmortem.experiment.bisect import BatchSearch, count_suspect_rows, default_window, smallest_cure
from postmortem.experiment.target import find_target
from tests.replays import AT, Driver

pytestmark = pytest.mark.heavy
Chosen = frozenset[int]


class Oracle:
    """Answers, and counts what it was asked for the first time."""

    def __init__(self, cures: Callable[[Chosen], bool]) -> None:
        self._cures, self.known = cures, dict[Chosen, bool]()

    def __call__(self, removed: Chosen) -> bool:
        return self.known.setdefault(removed, self._cures(removed))


@st.composite
def culprits(draw: st.DrawFn, least: int, most: int) -> tuple[int, Chosen]:
    """(W, the batches that must all go)."""
    count = draw(st.integers(least, 64))
    chosen = draw(st.frozensets(st.integers(0, count - 1), min_size=least, max_size=min(most, count)))
    return count, chosen


class TestSmallest:
    @given(culprits(1, 1))
    def test_one_culprit_takes_two_probes_more_than_its_bits(self, case: tuple[int, Chosen]) -> None:
        count, bad = case
        oracle = Oracle(lambda removed: bad <= removed)
        assert smallest_cure(count, oracle) == sorted(bad)
        assert len(oracle.known) <= math.ceil(math.log2(count)) + 2

    @given(culprits(2, 2))
    def test_two_that_must_both_go_take_at_most_twice_that(self, case: tuple[int, Chosen]) -> None:
        count, bad = case
        oracle = Oracle(lambda removed: bad <= removed)
        assert smallest_cure(count, oracle) == sorted(bad)
        assert len(oracle.known) <= 2 * (math.ceil(math.log2(count)) + 2)

    @given(culprits(1, 12))
    def test_any_number_is_found(self, case: tuple[int, Chosen]) -> None:
        count, bad = case
        oracle = Oracle(lambda removed: bad <= removed)
        assert smallest_cure(count, oracle) == sorted(bad)
        assert len(oracle.known) <= len(bad) * (math.ceil(math.log2(count)) + 2)

    @given(st.lists(culprits(1, 4), min_size=2, max_size=4))
    def test_of_several_cures_it_names_one_of_which_nothing_can_stay(self, cases: list[tuple[int, Chosen]]) -> None:
        count = max(count for count, _ in cases)

        def cures(removed: Chosen) -> bool:
            return any(bad <= removed for _, bad in cases)

        found = smallest_cure(count, cures)
        assert found is not None and cures(frozenset(found))
        assert not any(cures(frozenset(found) - {one}) for one in found)

    @given(st.integers(1, 64), st.integers(0, 2**32))
    def test_an_oracle_that_contradicts_itself_ends_the_search(self, count: int, seed: int) -> None:
        oracle = Oracle(lambda removed: hash((seed, *sorted(removed))) % 2 == 0)
        found = smallest_cure(count, oracle)
        assert found is None or (oracle(frozenset(found)) and set(found) <= set(range(count)))
        assert len(oracle.known) <= count * (math.ceil(math.log2(count)) + 2)

    def test_none_where_all_together_do_not_cure(self) -> None:
        oracle = Oracle(lambda removed: False)
        assert smallest_cure(64, oracle) is None and len(oracle.known) == 1

    def test_what_it_names_cures_even_where_more_would_not(self) -> None:
        assert smallest_cure(4, lambda removed: removed == frozenset(range(4)) or removed == {0, 1}) == [0, 1]
        assert smallest_cure(4, lambda removed: removed in (frozenset(range(4)), frozenset(range(3)))) == [0, 1, 2]
        assert smallest_cure(4, lambda removed: removed == frozenset(range(4)) or removed == {3, 1}) == [0, 1, 2, 3]


pytest.importorskip("torch")


class TestSearch:
    def search(self, run: Path, window: tuple[int, int] | None = None) -> BatchSearch:
        about = find_target(run, "bisect", trusted=True)
        return BatchSearch(about, window or default_window(about))

    def test_the_batch_and_its_rows(self, in_process: Driver, rogue_run: Path) -> None:
        search = self.search(rogue_run, (104, 120))
        told: list[tuple[str, str]] = []
        search.on_trial = lambda name, text: told.append((name, text))
        found = search.find_culprits(count_suspect_rows(search.target))
        assert (found.batches, found.rows) == ((AT,), (2, 5))
        assert "110" in found.text and found.text.endswith("caused it, through its rows 2, 5")
        assert found.probes <= 4 + 2 and found.row_probes <= 2 * (3 + 2)
        names = [name for name, text in told if not text]
        assert names == in_process.driven and len(names) == 1 + found.probes + found.row_probes
        # Every probe but the null replay begins where that one saved its state: before the window.
        assert found.naive_steps - found.steps == (104 - 100) * (len(names) - 1) > 0

        in_process.driven.clear()
        again = self.search(rogue_run, (104, 120)).find_culprits(count_suspect_rows(search.target))
        assert again == found and in_process.driven == [], "an interrupted search goes on with what is done"

    def test_two_that_each_make_a_spike(self, in_process: Driver, tmp_path: Path) -> None:
        from tests.replay.rogue_program import record

        run = record(tmp_path / "run", {"rogue": [AT, AT + 3]})
        found = self.search(run, (108, 116)).find_culprits(None)
        assert found.batches == (AT, AT + 3) and found.rows == ()
        assert found.text.endswith("caused it together")
        assert found.probes == len(in_process.driven) - 1 <= 2 * (3 + 2)

    def test_a_window_without_the_culprit_says_so(self, in_process: Driver, rogue_run: Path) -> None:
        with pytest.raises(UsageError, match=r"skipping all of \[111, 119\) does not cure it.*--window"):
            self.search(rogue_run, (111, 119)).find_culprits()
        assert len(in_process.driven) == 2

    def test_what_does_not_come_again_is_no_batch_s_fault(
        self, in_process: Driver, tmp_path: Path, rogue_run: Path
    ) -> None:
        """The run's rows show a spike that its program does not make."""
        from tests.replay.small import edited

        calm = edited(rogue_run, tmp_path / "calm", lambda manifest: manifest["config"].update(rogue=[], rows=[]))
        for table in (calm / "batches").iterdir():
            table.unlink()
        with pytest.raises(
            UsageError, match="does not show the incident again: run and replay differ from step 110 on"
        ):
            self.search(calm, (104, 120)).find_culprits()
        assert in_process.driven == ["R0"]

    def test_a_window_of_any_size_is_refused(self, rogue_run: Path) -> None:
        with pytest.raises(UsageError, match=r"\[111, 1000000000000000111\) has more than 10,000 batches"):
            self.search(rogue_run, (111, 111 + 10**18))

    def test_the_default_window_begins_no_earlier_than_the_checkpoint(self, rogue_run: Path) -> None:
        about = find_target(rogue_run, "bisect", trusted=True)
        assert about.from_step == 100 and default_window(about) == (100, 118)
