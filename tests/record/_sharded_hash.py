"""Run under torchrun: the hash of a sharded state, held against that of the whole. Argument: a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.distributed import all_gather_object, destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from postmortem.record.hashing import local_state_hash
from postmortem.record.state_hash import hex_of, join_parts, partials, state_hash
from postmortem.record.watch import Watch, finish_watched_row

torch.set_num_threads(1)
init_process_group("gloo")
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.manual_seed(0)


class ToHalf(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16()


last = nn.Linear(5, 3, dtype=torch.bfloat16)
model = nn.Sequential(nn.Embedding(33, 7), nn.Linear(7, 5), nn.LayerNorm(5), ToHalf(), last)
with torch.no_grad():
    model[1].weight[2, 3] = torch.nan
whole = state_hash({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
assert whole.nonfinite == {"1.weight": 1}

fully_shard(last)
fully_shard(model)
sharded = dict(model.named_parameters())
assert state_hash(sharded) == whole

(part,) = partials(sharded)
parts: list[str] = [""] * ranks
all_gather_object(parts, hex_of(part.words.tolist()))
assert join_parts(parts) == whole.hex

local: list[object] = [None] * ranks
all_gather_object(local, tuple(sorted(local_state_hash(sharded).items())))
assert len(set(local)) == ranks, "each rank holds bytes of its own"

mesh = init_device_mesh("cpu", (ranks,))
plain = torch.randn(9, 11, generator=torch.Generator().manual_seed(1))
for placement in (Shard(0), Shard(1), Replicate()):
    assert state_hash({"w": distribute_tensor(plain, mesh, [placement])}) == state_hash({"w": plain}), placement
if ranks % 2 == 0:
    grid = init_device_mesh("cpu", (2, ranks // 2))
    for pair in ((Replicate(), Shard(0)), (Shard(0), Shard(1)), (Shard(0), Shard(0)), (Shard(1), Replicate())):
        assert state_hash({"w": distribute_tensor(plain, grid, pair)}) == state_hash({"w": plain}), pair

# A watch calls no collective: its norms average, and its hashes add up, to those of the whole.
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(0.25)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
rows: list[dict[str, Any]] = []
sink = SimpleNamespace(something_moved_recently=False, logged=None, attach=rows.append, describe=lambda facts: None)
with Watch(sink, model, optimizer):
    model(torch.arange(6)).float().square().sum().backward()
    optimizer.step()
row = finish_watched_row(
    {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in rows[0].items()}
)
everyone: list[dict[str, Any]] = [{}] * ranks
all_gather_object(everyone, row)
assert join_parts([other["param_hash_part"] for other in everyone]) == state_hash(dict(model.named_parameters())).hex
full = torch.cat([parameter.full_tensor().detach().double().view(-1) for parameter in model.parameters()])
seen = sum(other["param_norm"] ** 2 for other in everyone) / ranks
assert abs(seen / float(full.square().sum()) - 1) < 1e-3
assert "param_hash" not in row and row["nonfinite_count"] == 0

Path(sys.argv[1], f"rank-{rank}").write_text(whole.hex)
destroy_process_group()
os._exit(0)  # what was compared is equal: gloo's threads may abort a process that tears itself down beside them
