"""What holds for every cause that discovery finds."""

from __future__ import annotations

import importlib

import pytest

from postmortem.causes import Cause, causes

SEEDS_PATTERNS = {"long_tail_tokens", "fp16_overflow", "lr_discontinuity", "optimizer_reset"}
ASKED = SEEDS_PATTERNS | {
    "garbage_data",
    "repeated_batch",
    "empty_labels",
    "nan_propagation",
    "lr_too_high",
    "bit_flip",
    "logging_artifact",
    "benign",
}


def test_the_causes_asked_for_are_there() -> None:
    assert {c.slug for c in causes()} >= ASKED


@pytest.mark.parametrize("cause", causes(), ids=lambda c: c.slug)
def test_a_cause_documents_itself(cause: Cause) -> None:
    text = cause.explain()
    assert text.startswith(f"# {cause.title} (`{cause.slug}`)")
    assert "**Smallest fix.**" in text
    assert "ruled out" in text or "rules it out" in text or "rule it out" in text
    assert cause.proof_text
    assert len(cause.lesson) < 200


@pytest.mark.parametrize("cause", causes(), ids=lambda c: c.slug)
def test_a_cause_needs_evidence_to_be_believed(cause: Cause) -> None:
    assert cause.prior < 0, "without evidence, unknown must lead"
    assert max(cause.weights.values()) + cause.prior < 4, "no single observation may make a cause certain"
    assert min(cause.weights.values()) < 0, "something must be able to rule it out"


@pytest.mark.parametrize("cause", causes(), ids=lambda c: c.slug)
def test_a_cause_file_is_named_after_its_slug(cause: Cause) -> None:
    assert importlib.import_module(f"postmortem.causes.{cause.slug}").CAUSE is cause
