"""Loops on two ranks over gloo, and their replays on as many: a plain one replicated and sharded, and the Trainer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.bits, pytest.mark.processes]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("worker", "needs"), [("ranks_worker", "torch"), ("hf_ranks_worker", "transformers")])
def test_replays_of_two_ranks_are_exact(tmp_path: Path, worker: str, needs: str) -> None:
    pytest.importorskip(needs)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*launch, "-m", f"tests.frameworks.{worker}", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
