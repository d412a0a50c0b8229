"""What may lead: a cause that at least one observation is specific to."""

from __future__ import annotations

import pytest

from postmortem.assess.weighing import rank_causes
from postmortem.diagnosis import Evidence

CAUSE = "lr_too_high"
HINTS = ("loss.diverges", "loss.recurring", "loss.stays_up", "grad_norm.stays_up", "lr.near_peak", "dead_units.moved")


def ranked(*weights: float) -> list[str]:
    """The causes in order, where the first hints have these weights."""
    evidence = [Evidence(1, slug, slug, weights={CAUSE: w}) for slug, w in zip(HINTS, weights, strict=False)]
    return [h.cause for h in rank_causes(evidence, {})]


@pytest.mark.parametrize(("weights", "leads"), [((1.9,) * 6, "unknown"), ((2.0, *(1.0,) * 3), CAUSE)])
def test_hints_alone_do_not_add_up_to_a_cause(weights: tuple[float, ...], leads: str) -> None:
    assert ranked(*weights)[0] == leads
