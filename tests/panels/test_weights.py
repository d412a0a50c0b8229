"""Panel 5 on norms that are sampled now and then, and closely for a while once something moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, noise, write_run


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
