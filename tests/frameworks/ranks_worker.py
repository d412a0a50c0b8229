"""What each of two ranks does in test_ranks.py. Run by torch.distributed.run with a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from postmortem.checkpoint import Checkpointer, Policy
from postmortem.program import Edit
from postmortem.record import Recorder
from postmortem.training_loop import drive
from tests.frameworks.readings import numbers
from tests.frameworks.recorded import again
from tests.frameworks.torch_program import CONFIG, build


def train_and_replay(folder: Path, parallel: str) -> None:
    """Six steps, and the last four of them again: as they were, and without two batches."""
    config = {**CONFIG, "parallel": parallel}
    program = build(config)
    run, named = folder / parallel, {"program": "tests.frameworks.torch_program:build"}
    policy = Policy(rollback_every=2, recovery_every=0, best_k=0)
    with Recorder(run, config=config, manifest=named) as recorder, Checkpointer(recorder, program, policy) as saves:
        drive(program, 6, rows=recorder, checkpointer=saves)
    dist.barrier()
    null = again(run, folder / f"{parallel}-null", 2, 6)
    assert null.exact, null.differences
    assert null.columns == ("batch_hash", "grad_norm", "loss", "param_hash"), null.columns
    again(run, folder / f"{parallel}-skip", 2, 6, "skip=3:5", "clip=0.01")
    dist.barrier()
    assert numbers(folder / f"{parallel}-skip", "batch_index")[3] == 5
    measured = program.measure(program.batch(9)).metrics["grad_norm"]
    assert measured == program.measure(program.edited(program.batch(9), Edit(index=4))).metrics["grad_norm"]


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for kind in ("ddp", "fsdp2"):
        train_and_replay(Path(sys.argv[1]), kind)
    dist.destroy_process_group()
