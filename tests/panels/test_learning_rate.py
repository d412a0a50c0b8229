"""Panel 2 on a rate that jumps: before the incident it is a cause, after its peak it is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.diagnosis import Evidence
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, write_run

AT = 312  # the spike


def said(folder: Path, raised: tuple[int, int], factor: float = 15.0) -> Evidence | None:
    """What the lr panel says of a spike at AT, in a run whose rate is `factor` times its trend over `raised`."""
    columns = healthy()
    step = np.arange(STEPS)
    columns["lr"] = 1e-3 * np.where((step >= raised[0]) & (step < raised[1]), factor, 1.0) * (1 - step / (4 * STEPS))
    columns["loss"][AT : AT + 12] += 4.0
    incidents = diagnose(open_run(write_run(folder / "run", columns))).incidents
    spike = next(one for one in incidents if any(s.column == "loss" for s in one.signals))
    return next((one for one in spike.evidence if one.observation == "lr.jump"), None)


@pytest.mark.parametrize("first", [AT, AT - 30, AT - 80])
def test_a_rate_that_is_still_up_is_evidence(tmp_path: Path, first: int) -> None:
    found = said(tmp_path, (first, AT + 30))
    assert found is not None and f"at step {first}, " in found.text and "(15×)" in found.text


@pytest.mark.parametrize(
    ("raised", "factor"),
    [((AT + 20, AT + 90), 15.0), ((AT - 90, AT - 60), 15.0), ((AT - 120, AT + 30), 15.0), ((AT - 80, AT + 30), 0.1)],
    ids=["after", "over", "long ago", "lowered"],
)
def test_one_that_cannot_have_done_it_is_none(tmp_path: Path, raised: tuple[int, int], factor: float) -> None:
    assert said(tmp_path, raised, factor) is None
