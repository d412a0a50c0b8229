"""Makes the files of this folder with the code of commit 6008136, the last one before most names in the code changed.

    git worktree add /somewhere 6008136
    PYTHONPATH=/somewhere OMP_NUM_THREADS=1 python tests/compatibility/make.py

The imports below are those of that commit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

COMMIT = "6008136"
OUT = Path(__file__).parent / f"written_by_{COMMIT}"
RUN = "run"
CONTINUE = """
import os
from pathlib import Path
from postmortem.checkpoint import Checkpointer, Policy
from postmortem.drive import drive
from postmortem.record import Recorder
from tests.replay.rogue_program import build

program = build({"rogue": [110], "rows": [2, 5]})
recorder = Recorder("run", provenance=False, on_error="raise")
saves = Checkpointer(recorder, program, Policy(rollback_every=0, recovery_every=0, best_k=0), asynchronous=False)
saves.resume()
drive(program, 160, rows=recorder)
recorder.flush()
os._exit(0)  # as if it was killed: the rows of this attempt stay in a tail
"""
RECORD = """
from pathlib import Path
from tests.replay.rogue_program import record

record(Path("run"), {"rogue": [110], "rows": [2, 5]})
"""


def main() -> None:
    code = Path(os.environ["PYTHONPATH"])
    head = subprocess.run(["git", "-C", code, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    if not head.startswith(COMMIT):
        sys.exit(f"{code} is at {head.strip()}, not at {COMMIT}")
    with TemporaryDirectory() as name:
        folder = Path(name)
        _python(folder, "-c", RECORD)
        _python(folder, "-c", CONTINUE)
        _python(folder, "-m", "postmortem", "replay", RUN, "--trust")
        _python(folder, "-m", "postmortem", "prove", RUN, "--export", "jobs", "--trust")
        _python(folder, "-m", "postmortem", "prove", RUN, "--trust")
        _python(folder, "-m", "postmortem", "draft", RUN)
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir()
        shutil.copytree(folder / "jobs", OUT / "jobs", symlinks=True)
        shutil.copytree(folder / RUN, OUT / RUN, symlinks=True, ignore=_left_out)
    for manifest in OUT.rglob("run.json"):
        _remove_machine(manifest)


def _python(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=folder, check=True)


def _left_out(folder: str, names: list[str]) -> list[str]:
    """What the tests do not read: the replays of the proof, all checkpoints but one, the report, locks."""
    if folder.endswith("replays"):
        return [name for name in names if name.startswith("prove-")]
    if folder.endswith("rollback"):
        return [name for name in names if name != "step-00000100.dcp"]
    return [name for name in names if name.endswith(".lock") or name in ("panels", "report.md")]


def _remove_machine(manifest: Path) -> None:
    """Remove what names this machine; a replay by the command line records it."""
    keys = json.loads(manifest.read_text())
    for name in ("command", "packages", "variables", "git"):
        keys.pop(name, None)
    for rank in keys.get("ranks", {}).values():
        rank.pop("host", None)
    manifest.write_text(json.dumps(keys, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
