"""Panel 3 on a norm that steps by an exact factor where the run was resumed, and on one that grows before the onset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.panels.programs import AT, Columns, observed, program, resumed, run_of, shares


def stepped(norm: float, loss: float = 1.0, rate: float = 1.0) -> Columns:
    columns = {name: value for name, value in program("adam").items() if name in ("loss", "grad_norm", "lr")}
    columns["grad_norm"] = 0.6 + 0.1 * (columns["grad_norm"] - 0.6)
    for name, factor in (("grad_norm", norm), ("loss", loss), ("lr", rate)):
        columns[name][AT:] *= factor
    return columns


@pytest.mark.parametrize(
    ("norm", "loss", "factor"),
    [(5, 5, 5), (1 / 4, 1 / 4, 4), (2, 1, 2), (65_536, 1, 65_536)],
    ids=["summed", "divided", "norm only", "loss scale"],
)
def test_an_exact_factor_at_a_resume_is_told(norm: float, loss: float, factor: int, tmp_path: Path) -> None:
    run = run_of(tmp_path, stepped(norm, loss), journal=resumed(AT))
    told = observed(run)["grad_norm.integer_factor"]
    assert told.figures["factor"] == factor and f"step {AT}" in told.text
    assert told.strength == (1.0 if loss == norm else 0.5)
    assert shares(run).get("lr_too_high", 0.0) < 0.1


@pytest.mark.parametrize(
    ("norm", "rate", "at"), [(3.5, 1.0, AT), (5.0, 5.0, AT), (5.0, 1.0, 0)], ids=["no factor", "rate", "no resume"]
)
def test_any_other_step_is_none(norm: float, rate: float, at: int, tmp_path: Path) -> None:
    run = run_of(tmp_path, stepped(norm, rate=rate), journal=resumed(at) if at else ())
    assert "grad_norm.integer_factor" not in observed(run)


@pytest.mark.parametrize("grown", [True, False])
def test_growth_before_the_onset_is_told(grown: bool, tmp_path: Path) -> None:
    columns = program("adam")
    columns["loss"][AT : AT + 10] += 3
    if grown:
        columns["grad_norm"][AT - 20 : AT] *= np.linspace(1, 1.5, 20)
    assert ("grad_norm.grows" in observed(run_of(tmp_path, columns))) == grown
