"""Which incident is experimented on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from postmortem.diagnosis import Hypothesis, Incident
from postmortem.experiment.target import first_of_cascade
from tests.proof.test_null_replay import INCIDENT

ROWS = np.arange(1000)


def incident(onset: int, recovery: int | None, cause: str = "lr_too_high", **more: object) -> Incident:
    leading = Hypothesis(cause, cause, probability=0.9, score=2.0, strength="strong")
    return replace(
        INCIDENT, onset_step=onset, peak_step=onset + 2, recovery_step=recovery, hypotheses=(leading,), **more
    )


WORST = incident(400, 420)


@pytest.mark.parametrize(
    ("others", "first"),
    [
        ([], 400),
        ([incident(360, 380), incident(300, 310), incident(210, 220)], 210),
        ([incident(360, 380), incident(200, 250)], 360),
        ([incident(360, 380, cause="garbage_data")], 400),
        ([incident(360, 380, discarded=True, attempt=1)], 400),
        ([incident(360, None), incident(450, 460)], 360),
    ],
    ids=["alone", "each near the next", "too far apart", "another cause", "another lineage", "later ones do not count"],
)
def test_the_first_that_led_to_the_worst(others: list[Incident], first: int) -> None:
    assert first_of_cascade([WORST, *others], WORST, ROWS).onset_step == first


def test_what_is_not_known_leads_to_nothing() -> None:
    strange, earlier = incident(400, 420, cause="unknown"), incident(360, 380, cause="unknown")
    assert first_of_cascade([strange, earlier], strange, ROWS) is strange


def test_distance_is_counted_in_rows() -> None:
    assert first_of_cascade([WORST, incident(100, 110)], WORST, ROWS[::10]).onset_step == 100
