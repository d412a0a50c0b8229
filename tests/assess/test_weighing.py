"""What may lead: a cause that at least one observation is specific to."""

from __future__ import annotations

import pytest

from postmortem.assess.weighing import HINTED, panel_verdict, rank_causes
from postmortem.causes import causes
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


def test_what_hints_speak_for_stays_above_what_nothing_speaks_for() -> None:
    assert all(cause.prior < HINTED for cause in causes())


@pytest.mark.parametrize(("for_good", "verdict"), [((), "supported"), (("loss.stays_above_uniform",), "undecided")])
def test_a_batch_that_passes_does_not_keep_a_loss_above_guessing(for_good: tuple[str, ...], verdict: str) -> None:
    """Some batch of most runs has more of a rare token than others, by chance."""
    seen = ("loss.spike", "loss.diverges", "activations.moved", "token_loss.tail", "data.concentrated_token")
    weights = {slug: {c.slug: c.weights[slug] for c in causes() if slug in c.weights} for slug in (*seen, *for_good)}
    evidence = [Evidence(1, slug, slug, weights=weights[slug]) for slug in weights]
    best = rank_causes(evidence, {})
    assert best[0].cause == "long_tail_tokens" and panel_verdict(best, evidence) == verdict
