"""Panel 1 on who can testify that the loss departed alone, on ln V, and on incidents that recur."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.panels.programs import AT, LEVEL, OF_TOKENS, ROWS, Columns, first, observed, program, resumed, run_of, shares

V = 512


def wrong_point(columns: Columns) -> Columns:
    """The logged loss of one row is wrong; nothing else is."""
    columns["loss"][AT] *= 3
    return columns


class TestWitnesses:
    def test_columns_that_followed_the_loss_settle_it(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, wrong_point(program("adam")))
        seen = observed(run)
        assert seen["loss.alone"].strength == 1.0
        assert "grad_norm, token_loss_*, which follow it" in seen["loss.alone"].text
        assert first(run) == "logging_artifact"

    @pytest.mark.parametrize("optimizer", ["adam", "lion"])
    def test_one_that_never_followed_it_says_nothing(self, optimizer: str, tmp_path: Path) -> None:
        """A batch of garbage in one row looks the same: its gradient is as long as that of another batch."""
        columns = wrong_point(program("lion" if optimizer == "lion" else "adam"))
        columns = {name: columns[name] for name in ("loss", "lr", "update_rms", "param_norm")}
        columns["grad_norm"] = 0.6 * np.exp(0.1 * np.random.default_rng(9).standard_normal(ROWS))
        run = run_of(tmp_path, columns)
        assert "loss.alone" not in observed(run)
        assert shares(run)["logging_artifact"] < 0.3 and first(run) == "unknown"

    def test_a_gradient_that_followed_it_hints_where_no_tokens_are_logged(self, tmp_path: Path) -> None:
        columns = {name: value for name, value in wrong_point(program("sgd")).items() if name not in OF_TOKENS}
        run = run_of(tmp_path, columns)
        assert observed(run)["loss.alone"].strength < 0.5
        assert first(run) == "unknown"

    def test_tokens_of_another_micro_batch_are_no_witness(self, tmp_path: Path) -> None:
        columns, others = wrong_point(program("adam")), program("adam", seed=1)
        run = run_of(tmp_path, columns | {name: others[name] for name in (*OF_TOKENS, "grad_norm")})
        seen = observed(run)
        assert "loss.alone" not in seen and seen["token_loss.disagrees"].strength < 0.5
        assert first(run) == "unknown"

    @pytest.mark.parametrize("kept", [("loss", "lr"), ("loss", "lr", "grad_norm", "param_norm", *OF_TOKENS)])
    @pytest.mark.parametrize("constants", [("update_rms", "adam_m_norm"), ("grad_norm_clipped", "update_rms/embed")])
    def test_constant_columns_change_nothing(
        self, constants: tuple[str, ...], kept: tuple[str, ...], tmp_path: Path
    ) -> None:
        columns = {name: wrong_point(program("sgd"))[name] for name in kept}
        without = run_of(tmp_path / "without", columns)
        more = run_of(tmp_path / "with", columns | dict.fromkeys(constants, np.ones(ROWS)))
        assert ("loss.alone" in observed(more)) == ("loss.alone" in observed(without))
        assert shares(more).get("logging_artifact", 0) <= shares(without).get("logging_artifact", 0) + 1e-9


class TestUniform:
    @staticmethod
    def spiked(folder: Path, *rows: float) -> dict[str, str]:
        """Slug → sentence of what is said of a loss that has these multiples of ln V from AT on."""
        columns = {"loss": program("adam")["loss"]}
        columns["loss"][AT : AT + len(rows)] = np.array(rows) * math.log(V)
        seen = observed(run_of(folder, columns, manifest={"vocab_size": V}))
        return {slug: o.text for slug, o in seen.items() if "uniform" in slug}

    @pytest.mark.parametrize(
        ("rows", "slugs"),
        [
            ((1.0, 1.0), {"loss.near_uniform"}),
            ((2.2, 2.2), {"loss.near_uniform"}),
            ((10.0, 10.0), {"loss.above_uniform"}),
            ((0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0), set()),
            ((0.6, 0.6), {"loss.below_uniform"}),
            ((4.0,) * 100, {"loss.above_uniform", "loss.stays_above_uniform"}),
        ],
        ids=["about", "confident", "ten times", "climbs there", "below", "for good"],
    )
    def test_it_is_about_ln_v_within_bounds(self, rows: tuple[float, ...], slugs: set[str], tmp_path: Path) -> None:
        assert set(self.spiked(tmp_path, *rows)) == slugs

    def test_how_far_above_is_said(self, tmp_path: Path) -> None:
        assert "10× ln V = 6.238: far worse than guessing" in self.spiked(tmp_path, 10.0)["loss.above_uniform"]


class TestRecurrence:
    @staticmethod
    def spiking(*steps: int) -> Columns:
        columns = {name: value for name, value in program("adam").items() if name in ("loss", "grad_norm", "lr")}
        for at in steps:
            columns["loss"][at : at + 3] += LEVEL
            columns["grad_norm"][at : at + 3] *= 8
        return columns

    def test_spikes_where_the_loader_restarts_are_not_the_rates(self, tmp_path: Path) -> None:
        steps = (90, 151, 203, 262, 330)
        run = run_of(tmp_path, self.spiking(*steps), journal=resumed(*steps))
        seen = observed(run)
        assert seen["loss.at_resumes"].figures["resumed"] == 5 and "loss.recurring" not in seen
        assert shares(run)["lr_too_high"] < 0.05

    def test_a_period_is_told(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, self.spiking(90, 150, 210, 330))
        assert observed(run)["loss.periodic"].text.startswith("the loss departs every 60 steps")
        assert shares(run)["lr_too_high"] < 0.05

    def test_multiples_by_chance_are_no_period(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, self.spiking(90, 130, 170, 330))
        assert {"loss.recurring"} == {slug for slug in observed(run) if slug in ("loss.recurring", "loss.periodic")}

    def test_recurrence_alone_names_no_cause(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, self.spiking(90, 137, 246, 330))
        assert "loss.recurring" in observed(run) and "loss.periodic" not in observed(run)
        assert first(run) == "unknown"
