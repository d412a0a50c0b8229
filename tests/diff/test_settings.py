"""What run.json says differently, and how a divergence is put down to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.diff import RunsDiff, diff_runs
from postmortem.errors import UnreadableInput
from postmortem.sources import open_run
from tests.makers import noise, write_run

N = 200
SAME: dict[str, Any] = {
    "config": {"optimizer": {"betas": [0.9, 0.95]}, "streams": [{"name": "x", "first": 3}]},
    "environment": {"torch": "2.8", "platform": "one"},
    "packages": {"numpy": "2.0"},
    "git": {"commit": "abc", "patch": "code.patch"},
}


def against(tmp_path: Path, manifest: dict[str, Any], change: dict[str, Any] | None = None) -> RunsDiff:
    """Two runs of equal batches and, from step 50 on, a loss that `change` says."""
    loss = 2 + noise(0.02, N)
    later = loss + (np.arange(N) >= 50) * (change or {}).get("by", 0.0)
    batches = {"batch_hash": [f"{i:x}" for i in range(N)]}
    runs = []
    for name, values, says in (("a", loss, SAME), ("b", later, manifest)):
        run = write_run(tmp_path / name, {"loss": values}, batches=batches, manifest=says)
        (run / "code.patch").write_text(str((change or {}).get("patch", "") if name == "b" else ""))
        runs.append(open_run(run))
    return diff_runs(*runs)


def test_equal_files_say_nothing(tmp_path: Path) -> None:
    assert against(tmp_path, SAME).settings == ()


def test_every_nested_key_is_named(tmp_path: Path) -> None:
    d = against(
        tmp_path,
        {
            **SAME,
            "config": {"optimizer": {"betas": [0.9, 0.999]}, "streams": [{"name": "y", "first": 3}], "new": 1},
            "packages": {"numpy": "2.1"},
            "git": {"commit": "abc", "patch": "code.patch"},
            "seed": 43,
        },
        {"patch": "+ x = 1"},
    )
    told = {(s.group, s.key): (s.a, s.b) for s in d.settings}
    assert told.pop(("code", "patch"))[0].startswith("sha256 ")
    assert told == {
        ("config", "optimizer.betas"): ([0.9, 0.95], [0.9, 0.999]),
        ("config", "streams[0].name"): ("x", "y"),
        ("config", "new"): (None, 1),
        ("packages", "numpy"): ("2.0", "2.1"),
        ("run", "seed"): (42, 43),
    }


def test_what_one_run_did_not_record_is_no_difference(tmp_path: Path) -> None:
    d = against(tmp_path, {})
    assert d.settings == ()
    assert {"effective config: not recorded by b", "code: not recorded by b"} <= set(d.cannot_tell)


@pytest.mark.parametrize(
    ("manifest", "by", "kind", "text"),
    [
        (SAME, 0.1, "other_state", "on the same batch"),
        (SAME, 1e-7, "other_arithmetic", "nothing else is known to differ"),
        ({**SAME, "environment": {"torch": "2.9"}}, 1e-7, "other_arithmetic", "run.json differs in torch"),
        ({**SAME, "environment": {"torch": "2.9"}}, 0.1, "other_arithmetic", "run.json differs in torch"),
        ({**SAME, "environment": {"torch": "2.8", "platform": "two"}}, 0.1, "other_state", "on the same batch"),
        ({**SAME, "config": {"lr": 1}}, 0.1, "other_config", "run.json differs in lr"),
        ({**SAME, "config": {"lr": 1}}, 1e-7, "other_config", "run.json differs in lr"),
    ],
)
def test_a_divergence_is_put_down_to_what_differs(
    tmp_path: Path, manifest: dict[str, Any], by: float, kind: str, text: str
) -> None:
    found = against(tmp_path, manifest, {"by": by}).divergence
    assert found is not None and (found.step, found.kind, found.batch) == (50, kind, "same")
    assert text in found.text


def test_a_patch_outside_the_run_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="leads outside the run"):
        against(tmp_path, {**SAME, "git": {"patch": "../../etc/passwd"}})
