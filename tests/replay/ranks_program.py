"""A small training on one rank or on several, sharded by FSDP2 where there are several.

    torchrun --nproc-per-node 2 -m tests.replay.ranks_program RUN STEPS

records a run of it. Each rank takes its own rows of a batch, so its hashes are its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from postmortem.checkpoint import Checkpointer, Policy
from postmortem.program import Batch, Measured
from postmortem.record import Recorder
from postmortem.training_loop import drive
from tests.replay.counted import Counted

ROWS = 8


@dataclass(frozen=True)
class Rows:
    """A batch: x float32[rows of this rank, 6]."""

    index: int
    x: Tensor


class Sharded(Counted):
    """A regression by AdamW; its loss is the mean over all ranks."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        torch.manual_seed(4)
        self._several = dist.is_initialized() and dist.get_world_size() > 1
        self._rank, self._world = (dist.get_rank(), dist.get_world_size()) if self._several else (0, 1)
        self._fails_at, self._data_seed = config.get("fails_at"), int(config.get("data_seed", 0))
        self._model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        if self._several:
            mesh = init_device_mesh("cpu", (self._world,))
            for layer in (self._model[0], self._model[2]):
                fully_shard(layer, mesh=mesh)
            fully_shard(self._model, mesh=mesh)
        super().__init__(self._model, lr=1e-2)

    def batch(self, index: int) -> Rows:
        generator = torch.Generator().manual_seed(index + 1000 * self._data_seed)
        return Rows(index, torch.randn(ROWS, 6, generator=generator)[self._rank :: self._world])

    def step(self, batch: Batch) -> Measured:
        assert isinstance(batch, Rows)
        if self._done == self._fails_at and self._rank == self._world - 1:
            raise RuntimeError("the shard is not there")
        self._optimizer.zero_grad()
        loss = (self._model(batch.x) - batch.x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in self._model.parameters() if p.grad is not None])
        self._optimizer.step()
        self._count(batch.index)
        mean = loss.detach().clone()
        if self._several:
            dist.all_reduce(mean)
            mean /= self._world
            norm = norm.full_tensor()
        facts = {"batch_hash": xxhash.xxh3_128_hexdigest(batch.x.contiguous().numpy().data)}
        return Measured({"loss": float(mean), "grad_norm": float(norm)}, facts)


def build(config: Mapping[str, Any]) -> Sharded:
    """A fresh training. `fails_at` is a step at which the last rank raises, `data_seed` another data set."""
    return Sharded(config)


def record(out: Path, steps: int, config: Mapping[str, Any]) -> None:
    """Train and record; a checkpoint each 4 steps."""
    torch.set_num_threads(1)
    program = build(config)
    manifest = {"program": "tests.replay.ranks_program:build"}
    policy = Policy(rollback_every=4, rollback_keep=100, recovery_every=0, best_k=0)
    with (
        Recorder(out, config=config, manifest=manifest, on_error="raise") as recorder,
        Checkpointer(recorder, program, policy, asynchronous=False) as saves,
    ):
        drive(program, steps, rows=recorder, checkpointer=saves)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    record(Path(sys.argv[1]), int(sys.argv[2]), {})
    dist.destroy_process_group()
