"""What the scripts that write README's generated parts share: the sample run, and the text between two markers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SAMPLE = Path("sample_runs/19-spike-001")


def copy_sample(folder: Path, sample: Path = SAMPLE) -> None:
    """Copy a sample run into `folder`, under its path in the repository, as it was committed: without what a reader's
    own commands left beside it, such as a proof.
    """
    shutil.copytree(ROOT / sample, folder / sample, ignore=shutil.ignore_patterns("postmortem"), symlinks=True)


def environment(**more: str) -> dict[str, str]:
    """The environment in which this checkout's command runs."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def between_markers(readme: str, block: str) -> tuple[str, str, str]:
    """(text before, inside and after the markers of `block`); the markers belong to the texts before and after."""
    begin, end = f"<!-- begin {block} -->", f"<!-- end {block} -->"
    before, _, rest = readme.partition(begin)
    inside, end_mark, after = rest.partition(end)
    if not end_mark:
        raise SystemExit(f"{README}: no {begin} … {end}")
    return f"{before}{begin}\n", inside.strip(), f"\n{end}{after}"
