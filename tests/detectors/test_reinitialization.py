"""A run that begins anew within its log, and what only looks like it."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import Telemetry
from tests.detectors.helpers import findings, only, telemetry

ROWS, AGAIN = 400, 220


def _run(*, loss_again: bool = True, rate_again: bool = True, seed: int = 0) -> Telemetry:
    rng, since = np.random.default_rng(seed), np.arange(ROWS)
    row = np.where(since < AGAIN, since, since - AGAIN)
    lost, rate = (row if loss_again else since), (row if rate_again else since)
    loss = (0.9 + 30 * np.exp(-lost / 2) + 5 * np.exp(-lost / 15)) * np.exp(0.01 * rng.standard_normal(ROWS))
    lr = 1e-3 * np.minimum(rate / 40, 0.5 * (1 + np.cos(np.pi * rate / ROWS)))
    return telemetry(loss=loss, lr=lr, every=100)


@pytest.mark.parametrize("seed", range(10))
def test_loss_and_rate_of_the_first_row_again(seed: int) -> None:
    incident = only(_run(seed=seed))
    assert (incident.kind, incident.title) == ("reinitialization", "re-initialization")
    assert (incident.onset_step, incident.peak_step, incident.outcome) == (22_000, 22_000, "recovered")
    (f,) = [f for f in incident.findings if f.kind == "reinitialization"]
    assert f.figures["loss"] == pytest.approx(f.figures["first_loss"], rel=0.05)
    assert (f.figures["lr"], f.figures["first_lr"], f.role) == (0.0, 0.0, "cause")


@pytest.mark.parametrize(("loss_again", "rate_again"), [(True, False), (False, True), (False, False)])
def test_one_of_the_two_alone_is_none(loss_again: bool, rate_again: bool) -> None:
    """Weights that a resume lost, a warm restart, and an ordinary run."""
    assert not findings(_run(loss_again=loss_again, rate_again=rate_again), "reinitialization")


def test_a_constant_rate_says_nothing() -> None:
    t = _run()
    loss = t.series("loss")
    assert loss is not None
    assert not findings(telemetry(loss=loss.value, lr=np.full(ROWS, 1e-3)), "reinitialization")
