"""Panel 5 on norms that are sampled now and then, and on what an update can do to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, noise, write_run
from tests.panels.programs import (
    AT,
    OF_TOKENS,
    ROWS,
    Columns,
    Optimizer,
    first,
    harder,
    observed,
    program,
    resumed,
    run_of,
    shares,
)


@pytest.mark.parametrize(("flip", "slug"), [(0.0, "weights.smooth"), (30.0, "weights.unprovoked_jump")])
def test_a_longer_way_between_two_rows_is_no_jump(tmp_path: Path, flip: float, slug: str) -> None:
    step, at = np.arange(STEPS), 305
    sampled = (step % 20 == 0) | ((step >= 200) & (step < 300))
    norm = 20 + 0.05 * step + noise(0.002) + flip * (step >= at)
    columns = healthy()
    columns["loss"][at + 1 : at + 30] += np.linspace(2.0, 4.0, 29)
    columns.pop("update_rms", None)
    columns["param_norm"] = np.array([value if seen else None for value, seen in zip(norm, sampled, strict=True)])
    found = diagnose(open_run(write_run(tmp_path / "run", columns))).incidents
    assert slug in {e.observation for incident in found for e in incident.evidence}
    assert ("weights.unprovoked_jump" in {e.observation for i in found for e in i.evidence}) == bool(flip)


class TestPhysics:
    """What the updates of a step can do bounds what happened to the parameters in it, whatever the gradient did."""

    @staticmethod
    def jumped(columns: Columns, times: float, gradient: float, update: float) -> Columns:
        """A norm that moves `times` as far as usual in one step, whose gradient and update are so much larger."""
        columns["param_norm"][AT:] += times * 1e-3
        columns["grad_norm"][AT : AT + 20] *= gradient
        columns["update_rms"][AT : AT + 3] *= update
        return harder(columns, slice(AT, AT + 20), 4.0)

    @pytest.mark.parametrize("optimizer", ["adam", "lion"])
    def test_a_flip_before_the_forward_pass_is_not_its_gradients(self, optimizer: Optimizer, tmp_path: Path) -> None:
        update = 3.0 if optimizer == "adam" else 1.0
        run = run_of(tmp_path, self.jumped(program(optimizer), 1e4, gradient=1e3, update=update))
        seen = observed(run)
        assert "the updates of that step are at most" in seen["weights.unprovoked_jump"].text
        assert first(run) == "bit_flip"

    def test_a_clipped_gradient_cannot_have_done_it(self, tmp_path: Path) -> None:
        columns = self.jumped(program("sgd"), 1e4, gradient=1e3, update=1.0) | {"clip_threshold": np.ones(ROWS)}
        del columns["update_rms"]
        assert "weights.unprovoked_jump" in observed(run_of(tmp_path, columns))

    def test_a_step_that_was_skipped_cannot_have_done_it(self, tmp_path: Path) -> None:
        columns = self.jumped(program("adam"), 1e4, gradient=1.0, update=1.0)
        columns["grad_norm"][AT] = np.nan
        assert "weights.unprovoked_jump" in observed(run_of(tmp_path, columns))

    def test_an_update_that_large_did_it(self, tmp_path: Path) -> None:
        seen = observed(run_of(tmp_path, self.jumped(program("sgd"), 1e3, gradient=1e3, update=1e3)))
        assert "weights.jump" in seen and "weights.unprovoked_jump" not in seen

    @pytest.mark.parametrize("groups", [1, 3])
    def test_groups_that_jump_together_were_updated(self, groups: int, tmp_path: Path) -> None:
        """A damaged element is in one group. The first update of a blow-up goes through all of them."""
        columns = self.jumped(program("sgd"), 30.0, gradient=1.0, update=1.0)
        for n in range(3):
            moved = columns["param_norm"] if n < groups else columns["param_norm"] - 30e-3 * (np.arange(ROWS) >= AT)
            columns[f"param_norm/layer{n}"] = moved / 2
        seen = observed(run_of(tmp_path, columns))
        assert ("weights.unprovoked_jump" in seen) == (groups == 1)
        assert groups == 1 or "jumps in that step, too" in seen["weights.jump"].text

    @pytest.mark.parametrize("gradient", [1.0, 3.0])
    def test_a_jump_where_the_run_was_resumed_is_the_resumes(self, gradient: float, tmp_path: Path) -> None:
        run = run_of(tmp_path, self.jumped(program("adam"), 1e4, gradient, update=1.0), journal=resumed(AT))
        assert f"resumed at step {AT}" in observed(run)["weights.changed_at_resume"].text
        assert shares(run).get("bit_flip", 0.0) < 0.05


class TestWithoutMoments:
    """The size of Adam's first update after a resume, where the moments are not logged."""

    @pytest.mark.parametrize(
        ("size", "state"),
        [
            (1.0, "moments and step at 0"),
            (3.16, "moments at 0 at β2 = 0.999"),
            (0.3 * 0.316, "the step at 0 at β2 = 0.999"),
            (0.3 * 2.236, "the step at 0 at β2 = 0.95"),
            (0.3, ""),
            (1.7, ""),
        ],
    )
    @pytest.mark.parametrize("journal", [True, False])
    def test_it_tells_what_is_missing(self, size: float, state: str, journal: bool, tmp_path: Path) -> None:
        columns = harder(program("adam"), slice(AT + 1, AT + 20), 1.0)
        columns["update_rms"][AT : AT + 10] = size + (0.3 - size) * np.arange(10) / 10
        run = run_of(tmp_path, columns, journal=resumed(AT) if journal else ())
        told = observed(run).get("update.without_moments")
        assert (told is not None) == (journal and bool(state))
        assert told is None or told.text.endswith(f"that of Adam with {state}")
        assert told is None or first(run) == "optimizer_reset"


@pytest.mark.parametrize(("value", "dtype"), [(1e30, "bf16"), (np.inf, "fp32")])
@pytest.mark.parametrize("sound_before", [True, False])
def test_an_activation_that_no_update_explains_is_a_parameter_that_changed(
    sound_before: bool, value: float, dtype: str, tmp_path: Path
) -> None:
    """The forward pass overflows at once, so that no norm is left that shows a finite jump."""
    columns = program("sgd") | {"act_max/embed": 8 + noise(0.1, ROWS, 7)}
    for name in ("loss", "grad_norm", "param_norm", "update_rms", *OF_TOKENS):
        columns[name][AT:] = np.nan
    columns["act_max/embed"][AT] = value
    if not sound_before:
        columns["param_norm"][AT - 1] = 1e29
    run = run_of(tmp_path, columns, manifest={"dtype": dtype})
    assert ("weights.changed_between" in observed(run)) == sound_before
    assert (first(run) == "bit_flip") == sound_before


@pytest.mark.parametrize(("steps", "told"), [(1, False), (8, True)])
def test_steps_that_change_the_norm_by_a_large_share_are_too_long(steps: int, told: bool, tmp_path: Path) -> None:
    columns = harder(program("sgd"), slice(AT, ROWS), 6.0)
    grown = 1.3 ** np.clip(np.arange(ROWS) - AT + 1, 0, steps)
    columns["param_norm"] *= grown
    for name in ("grad_norm", "update_rms"):
        columns[name][AT : AT + steps] *= 500
    columns["loss"][AT : AT + steps] += np.arange(steps)
    run = run_of(tmp_path, columns)
    assert ("weights.large_steps" in observed(run)) == told
    incident = diagnose(run).incidents[0]
    assert (incident.verdict == "supported" and incident.hypotheses[0].cause == "lr_too_high") == told


def test_changes_that_grow_from_row_to_row_are_no_jump(tmp_path: Path) -> None:
    columns = harder(program("sgd"), slice(AT, AT + 80), 3.0)
    columns["param_norm"] = 20 + np.cumsum(1e-3 * np.clip(1 + (np.arange(ROWS) - AT) / 5, 1, 15))
    columns["loss"][AT + 80] += 9  # the peak is late
    assert not {slug for slug in observed(run_of(tmp_path, columns)) if "jump" in slug}
