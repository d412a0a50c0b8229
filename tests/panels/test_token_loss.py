"""Panel 7 on a batch whose tokens all cost more, however far the worst of them went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.panels.programs import AT, OF_TOKENS, ROWS, observed, program, run_of, shares


@pytest.mark.parametrize(
    ("shifts", "mean", "slug"),
    [
        ((4.9, 10.5, 14.0), 5.6, "token_loss.whole"),
        ((2.0, 2.0, 2.0), 2.0, "token_loss.whole"),
        ((0.0, 9.0, 14.0), 1.5, "token_loss.tail"),
        ((0.5, 9.0, 14.0), 2.5, "token_loss.tail"),
    ],
    ids=["most tokens, far tail", "all alike", "few tokens", "mostly few tokens"],
)
def test_a_median_that_rises_with_the_mean_is_no_tail(
    shifts: tuple[float, float, float], mean: float, slug: str, tmp_path: Path
) -> None:
    columns = program("adam")
    columns["loss"][AT : AT + 3] += mean
    columns["grad_norm"][AT : AT + 3] *= 5
    for name, shift in zip(("token_loss_p50", "token_loss_p99", "token_loss_max"), shifts, strict=True):
        columns[name][AT : AT + 3] += shift
    seen = observed(run_of(tmp_path, columns))
    assert {s for s in seen if s in ("token_loss.whole", "token_loss.tail")} == {slug}
    assert slug == "token_loss.whole" or (seen[slug].strength == 1.0) == (shifts[0] == 0.0)


def test_tokens_that_stay_as_they_are_contradict_a_loss_that_hardly_leaves_its_noise(tmp_path: Path) -> None:
    """Small batches: the spike is an incident, yet less than six sigmas of a loss measured on the logarithm."""
    columns = program("adam")
    hardness = np.exp(0.16 * np.random.default_rng(3).standard_normal(ROWS))
    hardness[AT] = 1.0
    for name in ("loss", *OF_TOKENS):
        columns[name] *= hardness
    columns["loss"][AT] *= 2.4
    run = run_of(tmp_path, columns)
    assert observed(run)["token_loss.disagrees"].strength == 1.0 and shares(run)["logging_artifact"] > 0.5
