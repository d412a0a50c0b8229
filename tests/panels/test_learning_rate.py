"""Panel 2 on a rate that jumps: before the incident it is a cause, after its peak it is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.diagnosis import Evidence
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, noise, write_run
from tests.panels.programs import ROWS, first, observed, program, run_of

AT = 312  # the spike


def said(folder: Path, raised: tuple[int, int], factor: float = 15.0) -> Evidence | None:
    """What the lr panel says of a spike at AT, in a run whose rate is `factor` times its trend over `raised`."""
    columns = healthy()
    step = np.arange(STEPS)
    columns["lr"] = 1e-3 * np.where((step >= raised[0]) & (step < raised[1]), factor, 1.0) * (1 - step / (4 * STEPS))
    columns["loss"][AT : AT + 12] += 4.0
    incidents = diagnose(open_run(write_run(folder / "run", columns))).incidents
    spike = next(one for one in incidents if any(s.column == "loss" for s in one.signals))
    return next((one for one in spike.evidence if one.observation == "lr.jump"), None)


@pytest.mark.parametrize("first", [AT, AT - 30, AT - 80])
def test_a_rate_that_is_still_up_is_evidence(tmp_path: Path, first: int) -> None:
    found = said(tmp_path, (first, AT + 30))
    assert found is not None and f"at step {first}, " in found.text and "(15×)" in found.text


@pytest.mark.parametrize(
    ("raised", "factor"),
    [((AT + 20, AT + 90), 15.0), ((AT - 90, AT - 60), 15.0), ((AT - 120, AT + 30), 15.0), ((AT - 80, AT + 30), 0.1)],
    ids=["after", "over", "long ago", "lowered"],
)
def test_one_that_cannot_have_done_it_is_none(tmp_path: Path, raised: tuple[int, int], factor: float) -> None:
    assert said(tmp_path, raised, factor) is None


def test_one_after_the_peak_is_told_and_not_called_smooth(tmp_path: Path) -> None:
    columns = program("adam")
    columns["loss"][AT : AT + 60] += 3 * np.exp(-np.arange(60) / 20)
    columns["lr"][AT + 30 :] *= 12
    seen = observed(run_of(tmp_path, columns))
    assert "lr.smooth" not in seen and "lr.jump" not in seen
    text = seen["lr.jump_after"].text
    assert text.startswith("lr is smooth until the onset") and f"(12×) at step {AT + 30}, after the peak" in text


class TestHeight:
    """What a rate says by itself, and beside the other rates of the run."""

    @pytest.mark.parametrize(
        ("rate", "columns", "extreme"),
        [
            (0.3, {"update_rms": 0.3}, True),
            (3e-4, {"update_rms": 1.0}, False),
            (0.1, {"update_rms": 1e-3}, False),
            (0.1, {"adam_m_norm": 0.5}, True),
            (0.1, {}, False),
        ],
        ids=["huge steps", "lion", "sgd", "adam", "nothing logged"],
    )
    def test_extreme_is_what_a_step_does_to_a_weight(
        self, rate: float, columns: dict[str, float], extreme: bool, tmp_path: Path
    ) -> None:
        kept = {name: value for name, value in program("adam").items() if name in ("loss", "grad_norm")}
        kept["loss"][AT : AT + 10] += 3
        kept["lr"] = rate * np.cos(np.arange(ROWS) / ROWS)
        noisy = np.exp(noise(0.02, ROWS, 5))
        seen = observed(run_of(tmp_path, kept | {name: value * noisy for name, value in columns.items()}))
        assert ("lr.extreme" in seen) == extreme

    @pytest.mark.parametrize(("center", "high"), [(250, True), (50, False)])
    def test_incidents_where_the_rate_is_high_are_counted(self, center: int, high: bool, tmp_path: Path) -> None:
        kept = {name: value for name, value in program("adam").items() if name in ("loss", "grad_norm")}
        for at in (195, 225, 262, 300):
            kept["loss"][at : at + 4] += 3
            kept["grad_norm"][at : at + 4] *= 8
        kept["lr"] = 3e-4 * np.exp(-(((np.arange(ROWS) - center) / 80) ** 2))
        run = run_of(tmp_path, kept)
        assert ("lr.recurs_high" in observed(run)) == high
        assert (first(run) == "lr_too_high") == high
