"""What each of two ranks does with the Trainer in test_ranks.py. Run by torch.distributed.run with a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.frameworks.hf_program import record
from tests.frameworks.readings import hashes, numbers
from tests.frameworks.recorded import again

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    run = record(folder / "run", arguments={"ddp_backend": "gloo", "max_steps": 8, "disable_tqdm": True})
    dist.barrier()
    null = again(run, folder / "null", 3, 8)
    assert null.exact and null.compared == 5, null.differences
    again(run, folder / "skip", 3, 6, "skip=4:5")
    dist.barrier()
    assert numbers(folder / "skip", "batch_index")[4] == 5
    assert hashes(folder / "skip")[4] == hashes(run)[5]
    dist.destroy_process_group()
