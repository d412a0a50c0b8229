"""--incident and --at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from postmortem.errors import UsageError
from postmortem.report import select_id
from tests.report.factory import clean, several, undecided


def test_the_worst_is_the_default() -> None:
    assert select_id(several()) == 1 and select_id(clean()) is None


def test_the_incident_that_was_proven_leads() -> None:
    first, second, third = several().incidents
    proven = replace(several(), incidents=(first, replace(second, proof="only lr_discontinuity is left"), third))
    assert select_id(proven) == 2
    assert select_id(proven, number=1) == 1


@pytest.mark.parametrize(("at", "found"), [(312, 1), (340, 1), (300, 1), (690, 2), (41, 3)])
def test_a_step_chooses_the_incident_around_it(at: int, found: int) -> None:
    assert select_id(several(), at=at) == found


def test_a_step_within_the_onset_interval() -> None:
    assert select_id(undecided(), at=311) == 1


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match=r"within 50 rows of it: there are 1 .* step 312"):
        select_id(several(), at=1500)
    with pytest.raises(UsageError, match="the run has no incident"):
        select_id(clean(), number=1)
    with pytest.raises(UsageError, match="one of them"):
        select_id(several(), number=1, at=312)
