"""A disk that is really full: a small file system in memory, which needs no rights where users have namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.samples import ROOT, sample

pytestmark = pytest.mark.processes
MOUNT = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'


def on_a_small_disk(disk: Path, code: str, *words: str | Path) -> None:
    """Run `code`, whose arguments are the folder of a disk of 1 MiB and `words`; it must succeed."""
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(disk)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*inside, sys.executable, "-c", code, str(disk), *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=disk.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


COMMAND = """
import subprocess, sys
from pathlib import Path

disk, words, results = Path(sys.argv[1]), sys.argv[3:], ("out", "lessons.md")
filler, room = disk / "filler", int(sys.argv[2])
filler.write_bytes(bytes(2**20 - room - 8192))
def run():
    return subprocess.run([sys.executable, "-m", "postmortem", *words], capture_output=True, text=True)
def there():
    return sorted(path.relative_to(disk).as_posix() for path in disk.rglob("*") if path != filler)
failed = run()
assert failed.returncode == 4, (failed.returncode, failed.stderr)
assert failed.stderr.count("\\n") == 1 and "No space left" in failed.stderr, failed.stderr
assert not [name for name in there() if name.startswith((".", "out/")) or name == "lessons.md"], there()
filler.unlink()
worked = run()
assert worked.returncode == 0, worked.stderr
assert (disk / "out").is_dir() and not [name for name in there() if "/." in f"/{name}"], there()
"""


@pytest.mark.parametrize("room", [0, 40_000])
def test_a_draft(tmp_path: Path, room: int) -> None:
    disk = tmp_path / "disk"
    words = ("draft", sample("19-spike-001"), "--out", disk / "out", "--lessons", disk / "lessons.md")
    on_a_small_disk(disk, COMMAND, str(room), *words)


def test_a_diff(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    words = ("diff", sample("19-clean-001"), sample("19-spike-001-recovered"), "--out", disk / "out")
    on_a_small_disk(disk, COMMAND, "0", *words)


TRAINING = """
import sys, warnings
from pathlib import Path
import numpy as np
from postmortem.checkpoint import Checkpointer, Policy
from postmortem.checkpoint.inspection import inspect
from postmortem.record import Recorder
from postmortem.sources import open_run
from tests.checkpoint.helpers import Training

disk = Path(sys.argv[1])
run, filler, training = disk / "run", disk / "filler", Training()
said = []
warnings.showwarning = lambda message, *_: said.append(str(message))
warnings.simplefilter("always")
with Recorder(run, flush_interval_s=3600, provenance=False) as rec:
    with Checkpointer(rec, training.state(), Policy(recovery_every=2), asynchronous=False) as saves:
        saves.save(2, "recovery")
        rec.log(0, loss=1.0)
        rec.flush()
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        for step in range(1, 2000):
            rec.log(step, loss=float(step))
        rec.flush()
        assert rec.failure is not None
        saves.save(4, "recovery")
        assert len(said) == 2, said
        assert [path.name for path in run.glob("recovery/*")] == ["step-00000002.dcp"]
        assert not inspect(run / "latest").problems
        filler.unlink()
        rec.flush()
        assert rec.failure is None
        saves.save(6, "recovery")
loss = open_run(run).series("loss")
np.testing.assert_array_equal(loss.step, np.arange(2000))
assert len(said) == 2 and not inspect(run / "latest").problems, said
assert not [path for path in run.rglob(".*") if path.name != ".metadata"]
"""


def test_a_training(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    on_a_small_disk(tmp_path / "disk", TRAINING)
