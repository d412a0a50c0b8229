"""Panel 8: what an update that departs at a resume says, and what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, write_run

AT = 300


@pytest.mark.parametrize("gradient", [True, False])
def test_an_update_that_other_moments_made_names_what_is_logged_only(tmp_path: Path, gradient: bool) -> None:
    columns = {name: healthy()[name] for name in ("loss", "lr", "grad_norm", "update_rms")}
    columns["lr"][AT:] *= 0.5
    columns["update_rms"][AT : AT + 6] *= 0.4
    if not gradient:
        columns.pop("grad_norm")
    attempt = (np.arange(STEPS) >= AT).astype(int)
    run = open_run(write_run(tmp_path / "run", columns, attempt=attempt))
    texts = [e.text for i in diagnose(run).incidents for e in i.evidence if e.observation == "moments.other_update"]
    assert len(texts) == 1 and f"at step {AT}" in texts[0]
    assert ("grad_norm does not explain it" in texts[0]) == gradient
    assert "neither the rate" not in texts[0]
