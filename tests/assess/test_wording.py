"""What is said and advised where no cause is known: of causes that the evidence speaks for, and of no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from postmortem.assess.weighing import rank_causes
from postmortem.assess.wording import why_not_known
from postmortem.diagnosis import Evidence, Hypothesis
from tests.journals import worst
from tests.makers import SPIKE, healthy, write_run
from tests.panels.test_flat_or_not import case_of


def ranked(*observations: Mapping[str, float]) -> tuple[Hypothesis, ...]:
    """The causes by observations, each with its weights, each of a panel of its own."""
    slugs = ("loss.falls_for_good", "data.epoch_period", "state.not_training")  # every cause weighs these
    return rank_causes([Evidence(n, slugs[n], "", weights=weights) for n, weights in enumerate(observations)], {})


@pytest.mark.parametrize(
    ("observations", "text"),
    [
        (({"lr_too_high": 1.0},), "“Learning rate too high” (lr_too_high) leads."),
        (({"lr_too_high": 1.0}, {"lr_too_high": -4.0}), "no known cause has more for it than against it"),
        (({"lr_too_high": -4.0},), "no observation speaks for a known cause."),
        (
            ({"lr_too_high": 1.0, "garbage_data": 1.0, "bit_flip": 2.0},),
            "(garbage_data) and “Learning rate too high” (lr_too_high) lead.",
        ),
    ],
)
def test_only_causes_lead_that_the_evidence_speaks_for(
    observations: tuple[Mapping[str, float], ...], text: str, tmp_path: Path
) -> None:
    loss = healthy()["loss"]
    loss[SPIKE:] += 2
    assert text in why_not_known(case_of(tmp_path, loss=loss), ranked(*observations))


def test_of_causes_that_only_hints_speak_for_the_one_with_the_most_is_first() -> None:
    order = [h.cause for h in ranked(*({"benign": 1.0, "garbage_data": 1.4, "lr_too_high": 1.9},) * 3)]
    assert order[:4] == ["unknown", "lr_too_high", "garbage_data", "benign"]


def test_what_is_not_suspected_is_not_refused_either_and_no_replay_is_asked_for_that_is_not_named(
    tmp_path: Path,
) -> None:
    """A loss of which nothing else is known: it fits no cause better than another."""
    loss = healthy()["loss"]
    loss[SPIKE:] *= 0.5
    incident = worst(write_run(tmp_path / "run", {"loss": loss}))
    assert "replay" not in incident.not_known
    for remedy in incident.changes:
        assert "replay of section 4" not in remedy.text and "A remedy for" not in remedy.text


def test_a_harmless_cause_that_leads_needs_no_remedy_to_refuse(tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[SPIKE] += 2
    incident = worst(write_run(tmp_path / "run", {"loss": loss}))
    assert "“Benign” (benign) leads" in incident.not_known
    assert not any("Benign" in remedy.text or "replay of section 4" in remedy.text for remedy in incident.changes)
