"""The detector of each column: what it must find, and what it must not find."""

from __future__ import annotations

import numpy as np
import pytest

from postmortem.detectors import DetectedIncident, Telemetry, find_incidents
from postmortem.series import Series
from tests.detectors.helpers import calm_norm, decline, findings, only, telemetry

ROWS = 600


def schedule(kind: str, rows: int = 2000, warmup: int = 100, top: float = 3e-4) -> np.ndarray:
    """Ordinary learning-rate schedules."""
    step = np.arange(rows)
    up = np.minimum(step / warmup, 1.0)
    gone = np.clip((step - warmup) / (rows - warmup), 0, 1)
    shapes = {
        "constant": np.ones(rows),
        "warmup then constant": up,
        "cosine": np.where(step < warmup, up, 0.5 * (1 + np.cos(np.pi * gone))),
        "cosine to a tenth": np.where(step < warmup, up, 0.1 + 0.45 * (1 + np.cos(np.pi * gone))),
        "linear": np.where(step < warmup, up, 1 - gone),
        "inverse root": np.where(step < warmup, up, np.sqrt(warmup / np.maximum(step, 1))),
        "warmup stable decay": up * np.minimum(1, (rows - 1 - step) / 400),
        "warm restarts": 0.5 * (1 + np.cos(np.pi * (step % 400) / 400)),
        "growing warm restarts": _growing_restarts(rows),
        "step decay": 0.1 ** (step // 700),
        "first row zero": np.where(step == 0, 0.0, 1.0),
    }
    return top * shapes[kind]


def _growing_restarts(rows: int) -> np.ndarray:
    lengths = [100, 200, 400, 800, 1600]
    return np.concatenate([0.5 * (1 + np.cos(np.pi * np.arange(n) / n)) for n in lengths])[:rows]


SCHEDULES = (
    "constant",
    "warmup then constant",
    "cosine",
    "cosine to a tenth",
    "linear",
    "inverse root",
    "warmup stable decay",
    "warm restarts",
    "growing warm restarts",
    "step decay",
    "first row zero",
)


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_ordinary_schedules_are_no_discontinuity(kind: str, every: int) -> None:
    assert find_incidents(telemetry(lr=schedule(kind)[::every], every=every)) == ()


@pytest.mark.parametrize("kind", ["warmup then constant", "cosine", "linear", "warmup stable decay"])
@pytest.mark.parametrize("factor", [15.0, 3.0, 0.2])
def test_a_jump_against_the_trend_is_one(kind: str, factor: float) -> None:
    lr = schedule(kind)
    lr[900:] *= factor
    if kind in ("warmup then constant", "warmup stable decay") and factor < 1:
        assert find_incidents(telemetry(lr=lr)) == ()  # a single drop between plateaus is what step decay does
        return
    incident = only(telemetry(lr=lr))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("lr_discontinuity", 900, "lingering")


def test_a_jump_that_is_taken_back_is_one_finding() -> None:
    lr = schedule("cosine")
    lr[900:905] *= 10
    incident = only(telemetry(lr=lr))
    assert (incident.onset_step, incident.recovery_step, incident.outcome) == (900, 905, "recovered")


@pytest.mark.parametrize("rows", [1, 3])
def test_a_gradient_spike_opens_an_incident_alone(rows: int) -> None:
    norm = calm_norm(ROWS)
    norm[400 : 400 + rows] *= 30
    incident = only(telemetry(loss=decline(ROWS), grad_norm=norm))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("grad_norm_spike", 400, "recovered")
    assert incident.severity < 2


@pytest.mark.parametrize("factor", [8.0, 2.0, 1 / 8])
def test_a_gradient_norm_that_steps_and_stays(factor: float) -> None:
    norm = calm_norm(ROWS)
    norm[300:] *= factor
    (f,) = findings(telemetry(loss=decline(ROWS), grad_norm=norm), "grad_norm_shift")
    assert f.onset_step == 300
    assert f.settled == pytest.approx(f.baseline * factor, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_norms_of_a_beginning_raise_nothing(seed: int) -> None:
    assert find_incidents(telemetry(loss=decline(ROWS, seed), grad_norm=calm_norm(ROWS, seed))) == ()


def test_an_isolated_nan_gradient_is_a_lesser_thing() -> None:
    norm = calm_norm(ROWS)
    norm[400] = np.nan
    incident = only(telemetry(loss=decline(ROWS), grad_norm=norm))
    assert (incident.kind, incident.outcome) == ("non_finite_gradient", "recovered")
    assert incident.severity < 1


def test_a_working_loss_scaler_is_no_incident() -> None:
    norm, scale = calm_norm(1200), np.full(1200, 65536.0)
    for step in (300, 700, 1000):
        norm[step] = np.inf
        scale[step + 1 : step + 201] /= 2
    assert find_incidents(telemetry(loss=decline(1200), grad_norm=norm, loss_scale=scale)) == ()


def test_the_first_descent_of_the_loss_scale_is_no_incident_and_a_later_one_is() -> None:
    scale = np.full(ROWS, 65536.0)
    scale[:8] = 2.0 ** np.arange(24, 16, -1)
    assert find_incidents(telemetry(loss_scale=scale)) == ()
    for step in (400, 402, 405, 409):
        scale[step:] /= 2
    incident = only(telemetry(loss_scale=scale))
    assert (incident.kind, incident.onset_step, incident.outcome) == ("loss_scale_drop", 400, "lingering")


def test_a_falling_loss_scale_leads_its_loss_spike_by_thirty_rows_and_does_not_date_it() -> None:
    loss, scale = decline(ROWS), np.full(ROWS, 65536.0)
    for step in (370, 380, 390, 399):
        scale[step:] /= 2
    loss[400:440] += 2 * np.exp(-np.arange(40) / 10)
    incident = only(telemetry(loss=loss, loss_scale=scale))
    assert (incident.kind, incident.onset_step, incident.peak_step) == ("loss_spike", 400, 400)
    assert [(f.column, f.onset_step) for f in incident.findings] == [("loss", 400), ("loss_scale", 370)]


def test_skipped_steps_that_bunch() -> None:
    skipped = np.zeros(ROWS)
    skipped[[100, 300]] = 1
    assert find_incidents(telemetry(skipped=skipped)) == ()
    skipped[[400, 401, 403, 404]] = 1
    incident = only(telemetry(skipped=skipped))
    assert (incident.kind, incident.onset_step) == ("skipped_updates", 400)


@pytest.mark.parametrize("column", ["adam_m_norm", "adam_v_norm"])
def test_moments_that_fall(column: str) -> None:
    value = 0.2 * np.exp(0.05 * np.random.default_rng(0).standard_normal(ROWS))
    assert find_incidents(telemetry(**{column: value})) == ()
    value[350:] *= 1 - 0.9 * np.exp(-np.arange(ROWS - 350) / 20)
    incident = only(telemetry(**{column: value}))
    assert (incident.kind, incident.onset_step) == ("optimizer_state_discontinuity", 350)


def test_a_step_count_that_falls_back() -> None:
    count = np.arange(1.0, ROWS + 1)
    assert find_incidents(telemetry(optimizer_step=count)) == ()
    count[350:] = np.arange(1, ROWS - 349)
    incident = only(telemetry(optimizer_step=count, loss=decline(ROWS), restarts=(350,)))
    assert (incident.kind, incident.onset_step, incident.attempt) == ("optimizer_state_discontinuity", 350, 1)


@pytest.mark.parametrize("column", ["param_norm", "param_norm__layer0"])
def test_a_parameter_norm_that_jumps(column: str) -> None:
    norm = 30 + 0.01 * np.sqrt(np.arange(ROWS)) + 1e-4 * np.random.default_rng(0).standard_normal(ROWS)
    assert find_incidents(telemetry(**{column: norm})) == ()
    norm[350:] += 1.0
    incident = only(telemetry(**{column: norm}))
    assert (incident.kind, incident.onset_step) == ("param_norm_jump", 350)


def test_a_parameter_norm_that_is_looked_at_less_often_has_not_jumped() -> None:
    dense = np.arange(200, 250)
    step = np.unique(np.concatenate([np.arange(0, 800, 50), dense]))
    norm = 20 + 0.02 * step + 1e-3 * np.random.default_rng(0).standard_normal(step.size)

    def incidents(value: np.ndarray) -> tuple[DetectedIncident, ...]:
        series = {"param_norm": Series("param_norm", step, value)}
        return find_incidents(Telemetry(series.get, tuple(series), step, lambda _: None, ()))

    assert incidents(norm) == ()
    (incident,) = incidents(np.where(step >= 245, norm + 1.0, norm))
    assert (incident.kind, incident.onset_step) == ("param_norm_jump", 245)


def test_update_rms_and_token_loss_spikes() -> None:
    rng = np.random.default_rng(0)
    rms, worst = 0.2 * np.exp(0.03 * rng.standard_normal(ROWS)), 6 * np.exp(0.1 * rng.standard_normal(ROWS))
    assert find_incidents(telemetry(update_rms=rms, token_loss_max=worst)) == ()
    rms[300] *= 3
    worst[450] *= 3
    kinds = {i.kind: i.onset_step for i in find_incidents(telemetry(update_rms=rms, token_loss_max=worst))}
    assert kinds == {"update_rms_spike": 300, "token_loss_spike": 450}


def test_a_batch_without_labels() -> None:
    labels = np.full(ROWS, 96.0)
    assert find_incidents(telemetry(valid_labels=np.zeros(ROWS))) == ()
    labels[373] = 0
    loss = decline(ROWS)
    loss[373] = np.nan
    incident = only(telemetry(loss=loss, valid_labels=labels))
    assert (incident.kind, incident.onset_step, incident.recovery_step) == ("non_finite", 373, 374)
    assert [f.kind for f in incident.findings] == ["empty_batch_labels", "non_finite"]


class TestRepeatedBatches:
    FRESH = tuple(f"b{i}" for i in range(600))

    @pytest.mark.parametrize(
        "hashes",
        [
            FRESH,
            FRESH[:100] * 6,
            (*FRESH[:200], *np.random.default_rng(0).permutation(FRESH[:200]).tolist()),
            ("same",) * 300,
            (None,) * 300,
        ],
        ids=["fresh", "epochs", "shuffled epochs", "constant", "null"],
    )
    def test_ordinary_streams(self, hashes: tuple[object, ...]) -> None:
        assert find_incidents(telemetry(labels={"batch_hash": hashes})) == ()

    def test_the_same_batch_again_and_again(self) -> None:
        hashes = (*self.FRESH[:300], *(self.FRESH[299],) * 20, *self.FRESH[300:])
        incident = only(telemetry(labels={"batch_hash": hashes}))
        assert (incident.kind, incident.onset_step, incident.recovery_step) == ("repeated_batch", 300, 320)

    def test_a_loader_that_went_back(self) -> None:
        hashes = (*self.FRESH[:300], *self.FRESH[250:])
        incident = only(telemetry(labels={"batch_hash": hashes}))
        assert (incident.onset_step, incident.recovery_step) == (300, 350)

    def test_a_loader_that_starts_over_at_a_resume(self) -> None:
        hashes = (*self.FRESH[:300], *self.FRESH[:100])
        assert find_incidents(telemetry(labels={"batch_hash": hashes})) == ()
        assert only(telemetry(labels={"batch_hash": hashes}, restarts=(300,))).onset_step == 300


class TestBlankLosses:
    def test_evaluation_rows_in_between_are_normal(self) -> None:
        t = telemetry(loss=decline(300), every=10)
        with_eval = np.union1d(t.row_steps, t.row_steps[::5] + 1)
        assert find_incidents(type(t)(t.series, t.names, with_eval, t.labels)) == ()

    @pytest.mark.parametrize("every", [1, 25])
    def test_a_loss_logged_every_few_rows_is_normal(self, every: int) -> None:
        t = telemetry(loss=decline(300), every=every)
        assert find_incidents(type(t)(t.series, t.names, np.arange(300 * every), t.labels)) == ()

    def test_a_loss_that_goes_blank_is_suspected(self) -> None:
        t = telemetry(loss=decline(300))
        incident = only(type(t)(t.series, t.names, np.arange(400), t.labels))
        assert (incident.kind, incident.onset_step, incident.suspected) == ("suspected_non_finite", 300, True)
        assert (incident.outcome, incident.recovery_step) == ("diverged", None)
