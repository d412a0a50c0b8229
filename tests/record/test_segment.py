"""Which attempt begins: the same on every rank, however the ranks are told of each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.sources import open_run

_RANK = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from postmortem.record import Recorder

rank = int(sys.argv[2])
store = dist.TCPStore("127.0.0.1", int(sys.argv[3]), 2, rank == 0, timedelta(seconds=60))
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
for begin in range(2):
    if rank == begin:
        time.sleep(0.3)  # whoever comes first
    with Recorder(sys.argv[1], provenance=False, on_error="raise") as rec:
        assert (rec.rank, rec.world_size) == (rank, 2)
        for step in range(2):
            rec.log(2 * begin + step, loss=float(rank))
    print(rec.attempt)
    dist.barrier()
if rank == 0:  # a recorder on rank 0 alone hangs nobody
    Recorder(sys.argv[1] + "-alone", provenance=False, on_error="raise").close()
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.processes
def test_ranks_of_a_process_group_agree(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(run), str(rank), str(port)], stdout=subprocess.PIPE, env=environment
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert said == [[b"0", b"1"], [b"0", b"1"]]
    read = open_run(run)
    loss = read.series("loss")
    assert loss is not None and loss.value.tolist() == [0.5] * 4 and read.ranks == (0, 1)
    assert [segment.first_step for segment in read.segments] == [0, 2]
