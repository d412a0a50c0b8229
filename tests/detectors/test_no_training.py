"""Training that does nothing, and all that only looks like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from postmortem.detectors import find_incidents
from tests.detectors.helpers import calm_norm, decline, findings, only, telemetry
from tests.detectors.test_columns import SCHEDULES, schedule

ROWS = 200


def _flat(seed: int = 0, sigma: float = 0.05) -> np.ndarray:
    return 12 + sigma * np.random.default_rng(seed).standard_normal(ROWS)


@pytest.mark.parametrize(
    "columns",
    [
        {"lr": np.zeros(ROWS)},
        {"grad_norm": np.zeros(ROWS)},
        {"lr": np.zeros(ROWS), "grad_norm": np.zeros(ROWS)},
        {"skipped": np.ones(ROWS)},
        {"skipped": np.arange(1.0, ROWS + 1)},
        {"labels": {"param_hash": ["c0ffee"] * ROWS}},
    ],
    ids=str,
)
def test_a_run_that_no_update_changes(columns: dict[str, Any]) -> None:
    incident = only(telemetry(loss=_flat(), **columns))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("no_training", 0, "diverged")
    assert {f.column for f in incident.findings} == set(columns.get("labels", columns))


@pytest.mark.parametrize("first", [0, 40])
def test_a_loss_that_is_the_same_to_the_bit(first: int) -> None:
    loss = decline(ROWS)
    loss[first:] = 2.302585
    assert [f.onset_step for f in findings(telemetry(loss=loss), "no_training")] == [first]


@pytest.mark.parametrize("column", ["lr", "grad_norm"])
@pytest.mark.parametrize("seed", range(10))
def test_a_column_that_was_never_measured_is_none(column: str, seed: int) -> None:
    """A rate of 1e-5 that is logged as 0.0000, a gradient norm of 0.000 throughout."""
    columns: dict[str, Any] = {column: np.zeros(ROWS)}
    assert find_incidents(telemetry(loss=decline(ROWS, seed), **columns)) == ()


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_with_rows_of_zero_are_none(kind: str) -> None:
    lr = schedule(kind, 2000)
    lr[-100:] = 0.0 if kind in ("cosine", "linear") else lr[-100:]
    assert not findings(telemetry(loss=12 + decline(2000), lr=lr), "no_training")


def test_layers_that_are_frozen_for_a_while_are_none() -> None:
    norm = calm_norm(ROWS)
    norm[:50] = 0.0
    assert not findings(telemetry(loss=_flat(), grad_norm=norm), "no_training")


@pytest.mark.parametrize("decimals", [1, 2])
def test_a_loss_that_its_rounding_hides_is_not_frozen(decimals: int) -> None:
    loss = np.round(0.3 * np.exp(-np.arange(400) / 40) + 0.01, decimals)
    assert not findings(telemetry(loss=loss), "no_training")


def test_a_loss_that_is_logged_again_until_there_is_a_new_one_is_not_frozen() -> None:
    assert not findings(telemetry(loss=np.repeat(decline(20), 25)), "no_training")


def test_a_signed_loss_cannot_tell() -> None:
    rng = np.random.default_rng(0)
    assert not findings(telemetry(loss=0.01 * rng.standard_normal(ROWS), lr=np.zeros(ROWS)), "no_training")


def _parameters(frozen: int, decimals: int = 12) -> np.ndarray:
    norm = 20 + 1e-3 * np.cumsum(np.random.default_rng(1).random(ROWS))
    norm[frozen:] = norm[frozen]
    return np.round(norm, decimals)


def _hashes(frozen: int) -> dict[str, list[str]]:
    return {"param_hash": [f"h{min(i, frozen)}" for i in range(ROWS)]}


@pytest.mark.parametrize("columns", [{"param_norm": _parameters(90)}, {"labels": _hashes(90)}], ids=["norm", "hash"])
def test_parameters_that_stop_moving_are_found_at_the_row(columns: dict[str, Any]) -> None:
    lr = np.linspace(1e-3, 1e-4, ROWS)
    incident = only(telemetry(loss=decline(ROWS), lr=lr, **columns))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("no_training", 90, "diverged")


def test_parameters_that_a_spent_schedule_does_not_move_any_more_are_none() -> None:
    lr = 1e-3 * np.clip(1 - np.arange(ROWS) / 90, 0, 1)
    assert find_incidents(telemetry(loss=decline(ROWS), lr=lr, param_norm=_parameters(90), labels=_hashes(90))) == ()


def test_a_norm_that_its_rounding_hides_or_that_goes_on_is_not_frozen() -> None:
    for norm in (_parameters(90, decimals=3), _parameters(ROWS - 15), _parameters(ROWS - 1)):
        assert find_incidents(telemetry(loss=decline(ROWS), param_norm=norm)) == ()


@pytest.mark.parametrize("learns", [True, False])
def test_a_norm_that_never_moves_counts_where_the_loss_does_not_learn_either(learns: bool) -> None:
    norm = np.full(ROWS, 21.836420712)
    found = find_incidents(telemetry(loss=decline(ROWS) if learns else _flat(), param_norm=norm))
    assert [i.kind for i in found] == ([] if learns else ["no_training"])


@pytest.mark.parametrize("gone", ["loss", "norm"])
def test_parameters_whose_numbers_are_gone_are_not_called_frozen(gone: str) -> None:
    loss, norm = decline(ROWS), 20 + 0.01 * np.arange(ROWS)
    hashes = [f"{row:x}" for row in range(ROWS)]
    hashes[120:] = ["dead"] * (ROWS - 120)
    norm[120:] = 6e36 if gone == "norm" else norm[120]
    if gone == "loss":
        loss[120:] = np.nan
    t = telemetry(loss=loss, param_norm=norm, labels={"param_hash": hashes})
    assert findings(t, "no_training") == []
