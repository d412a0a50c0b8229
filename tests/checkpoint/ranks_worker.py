"""What each of two ranks does in test_ranks.py. Run by torch.distributed.run with: mode, folder."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from postmortem.checkpoint import Checkpointer, Policy, TrainState
from tests.checkpoint.helpers import Notes, Training, same

POLICY = Policy(rollback_every=2, recovery_every=4)


def shard(model: nn.Sequential) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def sharded() -> Training:
    """The training with its model sharded over all ranks; every rank sees the same batches."""
    return Training(prepare=shard)


def full(state: Any) -> Any:
    """`state` with every DTensor whole; all ranks together."""
    if isinstance(state, DTensor):
        return state.full_tensor().detach().clone()
    if isinstance(state, dict):
        return {key: full(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(full(value) for value in state)
    return state.clone() if isinstance(state, torch.Tensor) else state


def resume_and_save(folder: Path) -> None:
    """From a plain checkpoint to FSDP2, on to a sharded one, and from that to another sharded training."""
    rank = dist.get_rank()
    training = sharded()
    notes = Notes(folder, rank)
    with Checkpointer(notes, training.state(), POLICY) as saves:
        resumed = saves.resume()
        assert resumed is not None and resumed.step == 4, resumed
        assert (resumed.saved_world_size, resumed.world_size) == (1, 2)
        assert ("rng" in resumed.missing) == (rank == 1), resumed.missing
        assert not resumed.changed
        before = full(training.state().state_dict())
        if rank == 0:
            torch.save({"model": before["model"], "optimizer": before["optimizer"]}, folder / "taken.pt")
        torch.manual_seed(100 + rank)
        training.run(4, 8, saves)  # saves asynchronously at 6 and 8
    state = full(training.state().state_dict())
    straight = training.run(8, 10)
    again = sharded()
    with Checkpointer(notes, again.state(), POLICY) as saves:
        resumed = saves.resume()
        assert resumed is not None and resumed.step == 8 and not resumed.missing
        assert same(full(again.state().state_dict()), state)
        assert again.run(8, 10) == straight

        again.loader.state_dict = lambda: {"bad": object()} if rank == 1 else {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                saves.save(10, "rollback")
                saves.wait()
                refused = False
            except Exception as error:  # noqa: BLE001 - the type differs by rank
                refused = "loader.bad" in str(error)
        assert refused == (rank == 1)
        assert bool(caught) == (rank == 0), caught
        del again.loader.state_dict
        saves.save(10, "rollback")
        saves.wait()
    if rank == 0:
        assert notes.of("checkpoint_failed")[0]["reason"].startswith("RankFailed: rank 1"), notes.events
        torch.save(state, folder / "expected.pt")


class Own:
    """State that differs from rank to rank, and is too large for the document."""

    def __init__(self) -> None:
        self.held = torch.full((40_000,), float(dist.get_rank()))

    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held}

    def load_state_dict(self, state: Any) -> None:
        self.held = state["held"]


def replicas(folder: Path) -> None:
    """DistributedDataParallel: parameters are kept once and under their bare names, what is a rank's own by rank."""
    training, own = Training(), Own()
    state = TrainState(DistributedDataParallel(training.model), training.optimizer, own=own, rng=False)
    training.run(0, 2)
    with Checkpointer(Notes(folder, dist.get_rank()), state, POLICY) as saves:
        saves.maybe_save(2)
        saves.wait()
        own.held = own.held - 5
        assert saves.resume() is not None
    assert own.held.eq(dist.get_rank()).all()
    if dist.get_rank() == 0:
        torch.save(training.model.state_dict(), folder / "expected.pt")


def resume_only(folder: Path) -> None:
    """What one process saved, taken over by two ranks."""
    training = sharded()
    with Checkpointer(Notes(folder, dist.get_rank()), training.state(), POLICY) as saves:
        resumed = saves.resume()
        assert resumed is not None and resumed.world_size == 2 and resumed.saved_world_size == 1
        state = full(training.state().state_dict())
    if dist.get_rank() == 0:
        torch.save(state, folder / "back.pt")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    if sys.argv[1] == "resume_and_save":
        resume_and_save(Path(sys.argv[2]))
        replicas(Path(sys.argv[2]) / "replicas")
    else:
        resume_only(Path(sys.argv[2]))
    dist.destroy_process_group()
