"""What replays have shown of an incident's remedies, and what a report makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.change import Change
from postmortem.diagnosis import Experiment
from postmortem.shown import NOTHING, Shown

BATCHES = (40, 43)
NULL = Experiment("R0", (), "persists", "nothing changed")
PLACEBO = Experiment("R2", (Change("skip", ((30, 33),)),), "persists", "skip others")
REPLACED = Experiment("R3", (Change("replace", (BATCHES,)),), "cured", "other batches")
MOVED = Experiment("R3", (Change("move", (BATCHES,), (80,)),), "follows", "moved")


def scaled(factor: float, outcome: str) -> Experiment:
    return replace(REPLACED, role="R1", changes=(Change("lr-scale", values=(factor,)),), outcome=outcome)


def test_batches_that_carry_the_incident_are_left_out() -> None:
    shown = Shown.by((NULL, REPLACED, MOVED, PLACEBO))
    assert (shown.batches, shown.carries, shown.fix) == (BATCHES, True, (Change("skip", (BATCHES,)),))
    assert not Shown.by((NULL, REPLACED, replace(MOVED, outcome="cured"), PLACEBO)).carries


@pytest.mark.parametrize(
    "doubt",
    [replace(PLACEBO, outcome="cured"), replace(NULL, outcome="vanished"), replace(PLACEBO, outcome="")],
    ids=["a placebo cures", "nothing to cure", "a placebo could not be driven"],
)
def test_a_cure_by_chance_shows_nothing(doubt: Experiment) -> None:
    assert Shown.by((NULL, REPLACED, MOVED, doubt)) == NOTHING and NOTHING.fix is None


def test_a_file_s_word_shows_nothing() -> None:
    assert Shown.by([replace(each, unchecked="gone") for each in (NULL, REPLACED, MOVED)]) == NOTHING


def test_a_placebo_is_no_remedy_and_neither_is_a_change_among_others() -> None:
    both = replace(REPLACED, changes=(*REPLACED.changes, Change("lr-scale", values=(0.5,))))
    assert Shown.by((NULL, PLACEBO, both)).fix is None


@given(st.dictionaries(st.sampled_from([0.9, 0.5, 0.2, 0.1, 0.02, 2.0]), st.sampled_from(["cured", "persists", ""])))
def test_the_rate_is_the_largest_share_that_cured(outcomes: dict[float, str]) -> None:
    shown = Shown.by([NULL, *(scaled(factor, outcome) for factor, outcome in outcomes.items())])
    cured = [factor for factor, outcome in outcomes.items() if outcome == "cured" and factor < 1]
    assert shown.rate == max(cured, default=None)
    assert shown.rate is None or shown.fix == (Change("lr-scale", values=(shown.rate,)),)
