"""Ranks that should agree and do not, and ranks that only see other data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from postmortem.detectors import find_incidents
from tests.detectors.helpers import decline, findings, only, telemetry

ROWS, ONSET = 400, 120


def _losses(ranks: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {f"loss__rank{r}": decline(ROWS) * np.exp(0.05 * rng.standard_normal(ROWS)) for r in range(ranks)}


@pytest.mark.parametrize("ranks", [2, 4])
def test_hashes_that_differ_from_a_step_on(ranks: int) -> None:
    labels = {f"param_hash/rank{r}": [f"h{i}" for i in range(ROWS)] for r in range(ranks)}
    assert find_incidents(telemetry(ranks=tuple(range(ranks)), labels=labels, **_losses(ranks))) == ()
    labels[f"param_hash/rank{ranks - 1}"][ONSET:] = [f"other{i}" for i in range(ONSET, ROWS)]
    incident = only(telemetry(ranks=tuple(range(ranks)), labels=labels, **_losses(ranks)))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("rank_difference", ONSET, "diverged")
    assert incident.findings[0].column == f"param_hash/rank{ranks - 1}"


def test_loss_scales_that_differ() -> None:
    scale = np.full(ROWS, 65536.0)
    other = np.where(np.arange(ROWS) < ONSET, scale, scale / 2)
    other[300:] = 65536.0
    incident = only(telemetry(ranks=(0, 1), loss_scale__rank0=scale, loss_scale__rank1=other))
    assert (incident.kind, incident.onset_step, incident.recovery_step) == ("rank_difference", ONSET, 300)


def test_hashes_of_shards_differ_at_all_times() -> None:
    labels = {f"param_hash/rank{r}": [f"{r}-{i}" for i in range(ROWS)] for r in range(2)}
    assert find_incidents(telemetry(ranks=(0, 1), labels=labels, loss=decline(ROWS))) == ()


@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("seed", range(8))
def test_losses_of_other_data_differ_at_all_times(ranks: int, seed: int) -> None:
    assert find_incidents(telemetry(ranks=tuple(range(ranks)), **_losses(ranks, seed))) == ()


def test_one_rank_that_departs_alone() -> None:
    losses = _losses(4)
    losses["loss__rank2"][ONSET : ONSET + 40] *= 3
    t = telemetry(ranks=(0, 1, 2, 3), loss=decline(ROWS), **losses)
    (f,) = findings(t, "rank_difference")
    assert (f.column, f.onset_step, f.recovery_step, f.outcome) == ("loss/rank2", ONSET, ONSET + 40, "recovered")


def test_a_hard_batch_of_one_rank_is_no_incident() -> None:
    losses = _losses(4)
    losses["loss__rank2"][ONSET] *= 3
    assert find_incidents(telemetry(ranks=(0, 1, 2, 3), loss=decline(ROWS), **losses)) == ()


def test_a_spike_of_all_ranks_is_no_difference() -> None:
    losses = {name: np.where(np.arange(ROWS) // 20 == 6, 3 * value, value) for name, value in _losses(4).items()}
    assert not findings(telemetry(ranks=(0, 1, 2, 3), loss=decline(ROWS), **losses), "rank_difference")
