"""The committed sample runs for tests: copies, without the files that a user's own commands wrote into them."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from postmortem.arithmetic import arithmetic_of
from postmortem.jsonio import read_record
from postmortem.run.replayed import RESULT_FILE, ReplayResult

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "sample_runs"
TRUTHS = sorted((COMMITTED / "truth").glob("*.json"))
NAMES = sorted(path.parent.name for path in COMMITTED.glob("*/run.json"))
OTHER_ARITHMETIC = "other arithmetic than "  # how the reason of a skip begins; the name of the run follows
_copies = TemporaryDirectory(prefix="samples-")


@cache
def sample(name: str) -> Path:
    """A copy of the sample run `name`, shared by all tests of this process, which must not write into it."""
    return copy_of(name, Path(_copies.name) / name)


def copy_of(name: str, out: Path) -> Path:
    """A copy of the sample run `name` in the folder `out`, for a test of its own."""
    return Path(shutil.copytree(COMMITTED / name, out, ignore=shutil.ignore_patterns("postmortem"), symlinks=True))


def skip_on_other_arithmetic(replay: Path) -> None:
    """Skip a test that holds the bits of a committed run where the finished `replay` of it says that this machine
    computes otherwise, unless it came to the same bits all the same. The closing summary names the run and why."""
    result = read_record(ReplayResult, replay / RESULT_FILE, "the result of a replay")
    if result.arithmetic and (result.changes or not result.exact):
        name = json.loads((replay / "run.json").read_text())["lineage"]["run"]
        then = json.loads((COMMITTED / name / "run.json").read_text())["environment"]
        inevitable = arithmetic_of(then).missing or all(text.startswith("fingerprint") for text in result.arithmetic)
        assert inevitable, f"the replay did not adopt arithmetic that this machine has: {result.arithmetic}"
        pytest.skip(f"{OTHER_ARITHMETIC}{name}: {'; '.join(result.arithmetic)}")
