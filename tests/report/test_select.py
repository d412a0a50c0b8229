"""--incident and --at."""

from __future__ import annotations

import pytest

from postmortem.errors import UsageError
from postmortem.report import select_id
from tests.report.factory import clean, several, undecided


def test_the_worst_is_the_default() -> None:
    assert select_id(several()) == 1 and select_id(clean()) is None


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
