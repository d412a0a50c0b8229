"""A plain PyTorch training under the contract, alone or on several ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from postmortem.frameworks import TorchLoop

CONFIG: dict[str, Any] = {"micro": 1, "clip": 0.5, "precision": "fp32", "parallel": "no", "schedule": True}
VOCAB, ROWS, LENGTH = 32, 4, 6


def batch(index: int, micro: int = 1) -> Any:
    """(ids, labels) of this rank, or a list of `micro` of them."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    draw = torch.Generator().manual_seed(1000 * rank + index)
    made = [torch.randint(VOCAB, (ROWS, LENGTH + 1), generator=draw) for _ in range(micro)]
    pairs = [(ids[:, :-1], ids[:, 1:]) for ids in made]
    return pairs if micro > 1 else pairs[0]


def loss(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of the labels that count."""
    ids, labels = pair
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), labels.flatten())


def make(config: Mapping[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    """Model (dropout and running statistics among it), optimizer and scheduler."""
    torch.manual_seed(3)
    model: nn.Module = nn.Sequential(
        nn.Embedding(VOCAB, 8), nn.BatchNorm1d(LENGTH), nn.Dropout(0.1), nn.Linear(8, VOCAB)
    )
    if config["parallel"] == "fsdp2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model, mesh=mesh)
    if config["parallel"] == "ddp":
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95) if config["schedule"] else None
    return model, optimizer, scheduler


def build(config: Mapping[str, Any]) -> TorchLoop:
    """The training, driven from outside."""
    model, optimizer, scheduler = make(config)
    half = config["precision"] == "fp16"
    return TorchLoop(
        model,
        optimizer,
        batch=lambda index: batch(index, config["micro"]),
        loss=loss,
        scheduler=scheduler,
        clip=config["clip"],
        autocast=torch.bfloat16 if config["precision"] == "bf16" else None,
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10) if half else None,
        hash_every=3,
    )
