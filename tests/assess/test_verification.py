"""§6 holds for a run with the fix in it, and fails for the broken run itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from postmortem.assess.verification import rows_of, verify
from postmortem.diagnosis import Verification, VerificationCheck
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.broken import failed, passed_by_itself
from tests.makers import STEPS, healthy, healthy_batches, noise, worked_example, write_run
from tests.samples import sample
from tests.test_pipeline import CASES, make


def test_the_broken_run_fails_and_a_clean_twin_passes(tmp_path: Path) -> None:
    broken = open_run(worked_example(tmp_path / "broken"))
    incident = diagnose(broken).incidents[0]
    texts = failed(incident, broken)
    assert any("loss from step 312" in text for text in texts)
    assert any("grad_norm from step 312" in text for text in texts)
    assert any("no loss spike" in text for text in texts)
    columns = healthy()
    columns["loss"][100:] = 2.31 + 0.001 * np.random.default_rng(0).standard_normal(len(columns["loss"]) - 100)
    columns["grad_norm"][:] = 0.6
    clean = open_run(write_run(tmp_path / "clean", columns, batches=healthy_batches()))
    assert not failed(incident, clean)


def test_what_was_not_logged_or_is_not_finite_does_not_pass(tmp_path: Path) -> None:
    loss = np.full(50, 2.0)
    loss[20] = math.nan
    run = open_run(write_run(tmp_path / "run", {"loss": loss}))
    checks = (
        VerificationCheck("loss", 0, 10, "<", 3.0, "low enough"),
        VerificationCheck("loss", 0, 40, "finite", None, "finite"),
        VerificationCheck("grad_norm", 0, 40, "<", 3.0, "calm"),
        VerificationCheck("loss", 0, 10, ">=", 2.5, "high enough"),
        VerificationCheck("batch_hash", 0, 40, "absent", None, "no repeated batch", "repeated_batch"),
        VerificationCheck("loss", 0, 40, "absent", None, "no loss spike", "loss_spike"),
    )
    results = verify(Verification(None, None, None, 40, checks, ""), 0, run)
    assert [r.passed for r in results] == [False, True, False, False, False, False, True]
    assert results[3].measured is None and results[5].measured is None
    assert results[2].step == 20


@pytest.mark.parametrize("value", [0.0, 1.5, math.nan])
def test_a_loss_that_is_no_measurement_does_not_pass(value: float, tmp_path: Path) -> None:
    columns = healthy()
    columns["loss"][150:] = value
    run = open_run(write_run(tmp_path / "run", columns))
    limit = VerificationCheck("loss", 100, 120, "<", 10.0, "low enough")
    results = verify(Verification(None, 0.5, 9.0, 400, (limit,), ""), 100, run)
    assert any("frozen" in r.text and not r.passed for r in results)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", {"loss": healthy()["loss"][:50]}, manifest={"seed": 7}))
    assert [r.passed for r in verify(Verification(42, None, None, 40, (), ""), 0, run)] == [False, True]


class TestTheBrokenRunNeverPasses:
    """tests/test_true_figures.py says so of every log at hand."""

    @pytest.mark.parametrize("seed", range(12))
    def test_any_departure_of_any_column(self, seed: int, tmp_path: Path) -> None:
        """A step, a spike, a ramp or a loss of the values, of one column, up or down, anywhere in the run."""
        rng = np.random.default_rng(seed)
        columns = healthy()
        name = str(rng.choice([column for column in columns if column != "optimizer_step"]))
        first, rows = int(rng.integers(100, 420)), int(rng.choice([1, 5, 40, STEPS]))
        factor = float(rng.choice([0.1, 0.5, 2.0, 10.0, math.nan]))
        part = columns[name][first : first + rows]
        part *= np.linspace(1, factor, part.size) if rng.random() < 0.3 and part.size > 1 else factor
        run = open_run(write_run(tmp_path / "run", columns, batches=healthy_batches()))
        assert passed_by_itself(run) == []
        twin = open_run(write_run(tmp_path / "twin", healthy(), batches=healthy_batches()))
        for incident in diagnose(run, text=False).incidents:
            assert failed(incident, twin) == []


class TestASoundTwinPasses:
    @pytest.mark.parametrize("name", ["19-spike-001", "19-spike-001-recovered"])
    def test_of_a_sample_run(self, name: str) -> None:
        clean = open_run(sample("19-clean-001"))
        for incident in diagnose(open_run(sample(name)), text=False).incidents:
            assert failed(incident, clean) == []

    @pytest.mark.parametrize("cause", CASES)
    def test_of_a_synthetic_run(self, cause: str, tmp_path: Path) -> None:
        columns = healthy() | {"loss_scale": np.full(STEPS, 65536.0), "skipped": np.zeros(STEPS)}
        twin = open_run(write_run(tmp_path / "twin", columns, batches=healthy_batches()))
        for incident in diagnose(open_run(make(cause, tmp_path / "run")), text=False).incidents:
            assert failed(incident, twin) == []


def _reset(columns: dict[str, np.ndarray]) -> None:
    columns["adam_v_norm"][300:] *= 0.01
    columns["optimizer_step"][300:] -= 300


def _scale(columns: dict[str, np.ndarray]) -> None:
    columns["loss_scale"] = np.where(np.arange(STEPS) < 300, 65536.0, 16.0)
    columns["loss_scale"][300:312] = 65536.0 / 2.0 ** np.arange(1, 13)


def _update(columns: dict[str, np.ndarray]) -> None:
    columns["update_rms"][300:304] *= 4


def _zeros(columns: dict[str, np.ndarray]) -> None:
    columns["loss"][300:] = 0.0


def _blank(columns: dict[str, np.ndarray]) -> None:
    columns["loss"] = columns["loss"].astype(object)
    columns["loss"][300:400] = None


@pytest.mark.parametrize(
    ("break_", "check"),
    [
        (_reset, "optimizer_step at step 300 > "),
        (_scale, "no loss-scale drop from step 300"),
        (_update, "update_rms at step 300 < "),
        (_zeros, "loss from step 300 through 499 > 0 (0 at step 300"),
        (_blank, "(not logged in the broken run)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_departed_is_checked(break_: Callable[[dict[str, np.ndarray]], None], check: str, tmp_path: Path) -> None:
    columns = healthy()
    break_(columns)
    run = open_run(write_run(tmp_path / "run", columns))
    incident = diagnose(run).incidents[0]
    assert any(check in text for text in failed(incident, run)), failed(incident, run)


def test_a_return_to_the_usual_level_is_not_forbidden(tmp_path: Path) -> None:
    """After a batch was repeated and memorized, the loss rises to where it always was: a fixed run is there, too."""
    (incident,) = diagnose(open_run(make("repeated_batch", tmp_path / "run"))).incidents
    assert incident.verification is not None
    assert [check.relation for check in incident.verification.checks] == ["absent", "absent"]


def test_a_return_from_an_earlier_departure_is_not_forbidden(tmp_path: Path) -> None:
    """The rate is wrong for a hundred rows: the second jump is only the way back, and a fixed run is there already."""
    columns = healthy()
    columns["lr"][300:400] *= 20
    incidents = diagnose(open_run(write_run(tmp_path / "run", columns))).incidents
    assert sorted(incident.onset_step for incident in incidents) == [300, 400]
    sound = open_run(write_run(tmp_path / "sound", healthy()))
    assert [failed(incident, sound) for incident in incidents] == [[], []]


def test_rows_that_were_rolled_back_are_checked_in_the_run_that_broke_only(tmp_path: Path) -> None:
    columns, again = healthy(400), healthy(STEPS)
    columns["loss"][350:] += 3.0
    joined = {name: np.concatenate([columns[name], again[name][300:]]) for name in columns}
    steps = np.concatenate([np.arange(400), np.arange(300, STEPS)])
    attempt = np.concatenate([np.zeros(400, int), np.ones(STEPS - 300, int)])
    recovered = open_run(write_run(tmp_path / "recovered", joined, steps=steps, attempt=attempt))
    (incident,) = diagnose(recovered).incidents
    assert incident.discarded and rows_of(incident, recovered) == 0 and failed(incident, recovered)
    # A run that was diagnosed before it was rolled back: what came after is the fix.
    broken = open_run(write_run(tmp_path / "broken", columns))
    (before,) = diagnose(broken).incidents
    assert not before.discarded and failed(before, broken)
    assert rows_of(before, recovered) is None and not failed(before, recovered)


def test_where_nothing_has_to_change_there_is_nothing_to_verify(tmp_path: Path) -> None:
    columns = healthy()
    for name, factor in (("token_loss_p50", 0.9), ("token_loss_p99", 2.0), ("token_loss_max", 2.6)):
        columns[name] = factor * columns["loss"] + noise(0.01, seed=12)  # they follow the loss, and so can testify
    columns["loss"][300] *= 3
    worst = diagnose(open_run(write_run(tmp_path / "run", columns, batches=healthy_batches()))).incidents[0]
    assert worst.root_cause and worst.hypotheses[0].cause == "logging_artifact"
    assert worst.verification is not None and worst.verification.checks == () and worst.verification.command == ""
    assert worst.verification.not_needed.startswith("the cause is “logging artifact”: nothing in the run has to change")


def test_another_level_is_held_to_the_bound_in_proportion(tmp_path: Path) -> None:
    columns = healthy()
    _update(columns)
    (incident,) = diagnose(open_run(write_run(tmp_path / "broken", columns))).incidents

    def failing(name: str, factor: float, first: int = 0) -> bool:
        scaled = healthy() if factor > 0 else dict(columns)
        scaled["update_rms"] = scaled["update_rms"] * abs(factor)
        part = {column: values[first:] for column, values in scaled.items()}
        texts = failed(incident, open_run(write_run(tmp_path / name, part, steps=np.arange(first, STEPS))))
        return any("update_rms" in text for text in texts)

    assert not failing("sound", 1) and not failing("sound-at-another-level", 3)
    assert failing("broken-at-another-level", -1 / 8)
    assert failing("broken-without-a-past", -1, first=300), "no detector could find it again"


def test_a_small_loss_spike_in_noise_is_told_from_noise(tmp_path: Path) -> None:
    """The bound leaves the noise of another run with the same settings its room."""
    columns = healthy()
    columns["loss"][300:310] += 0.6
    (incident,) = diagnose(open_run(write_run(tmp_path / "run", columns))).incidents
    for seed in range(50, 60):
        columns = healthy()
        columns["loss"] += noise(0.005, seed=seed)
        assert not failed(incident, open_run(write_run(tmp_path / f"twin-{seed}", columns)))
