"""The ranking of token losses, against numpy's own quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from postmortem.record._token_losses import TokenLossRanking

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@pytest.mark.parametrize("number", [1, 2, 7, 100, 5_000])
def test_quantiles_and_worst_tokens_are_of_the_losses_that_count(number: int) -> None:
    generator = np.random.default_rng(number)
    losses = generator.gamma(2, 1, number).astype(np.float32)
    ids = generator.integers(-3, 50, number)
    ids[0] = 4
    losses[1::5] = -np.inf
    counts = np.isfinite(losses) & (ids >= 0)
    row = TokenLossRanking().columns(losses, ids, 7)
    for name, share in QUANTILES.items():
        assert row[f"token_loss_{name}"] == np.quantile(losses[counts], share, method="inverted_cdf")
    worst = sorted(losses[counts].tolist(), reverse=True)[:8]
    assert row["worst_token_losses"] == worst
    places = [7 * r + c for r, c in zip(row["worst_token_rows"], row["worst_token_cols"], strict=True)]
    assert losses[places].tolist() == worst and ids[places].tolist() == row["worst_token_ids"]


def test_worst_tokens_are_kept_where_a_row_stands_out() -> None:
    ranking, generator = TokenLossRanking(), np.random.default_rng(0)
    kept = []
    for step in range(400):
        losses = generator.gamma(2, 1, 200).astype(np.float32)
        if step in (100, 250):
            losses[17] = 40.0  # one token: the maximum alone moves
        if step == 300:
            losses += 1.0  # all of them
        if "worst_token_losses" in ranking.columns(losses, None, 0):
            kept.append(step)
    assert {0, 100, 250, 300} <= set(kept) and len(kept) < 100


def test_losses_that_are_no_numbers_are_the_worst_and_no_losses_are_no_quantile() -> None:
    ranking = TokenLossRanking()
    none = ranking.columns(np.full(3, -np.inf, np.float32), None, 0)
    assert all(math.isnan(none[f"token_loss_{name}"]) for name in QUANTILES) and none["worst_token_losses"] == []
    assert ranking.columns(np.array([2.0, 1.0], np.float32), None, 0)["token_loss_max"] == 2.0
    row = ranking.columns(np.array([1.0, math.nan, 0.5], np.float32), np.array([5, 6, 7]), 3)
    assert math.isnan(row["token_loss_max"]) and row["worst_token_ids"] == [6, 5, 7]
    again = ranking.columns(np.array([0.5, math.nan], np.float32), None, 0)
    assert math.isnan(again["worst_token_losses"][0]), "no number is higher than usual, also after another one"
