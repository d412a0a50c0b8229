"""What a TrainState takes and gives back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from postmortem.checkpoint import Checkpointer, Policy, TrainState, load_checkpoint
from postmortem.checkpoint.state import parameter_names
from postmortem.errors import UsageError
from tests.checkpoint.helpers import Notes, Training, same


def through_disk(tmp_path: Path, state: TrainState) -> dict[str, Any]:
    with Checkpointer(Notes(tmp_path), state, Policy(), asynchronous=False) as saves:
        return load_checkpoint(saves.save(1, "recovery"))


def test_all_of_it_comes_back_bit_for_bit(tmp_path: Path) -> None:
    training = Training()
    training.run(0, 5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13)
    ema = nn.Linear(3, 2)
    objects = {"noise": np.random.default_rng(3), "shuffle": random.Random(4), "ema": ema}
    state = TrainState(
        training.model, training.optimizer, training.scheduler, scaler, training.loader, extra=training.extra, **objects
    )
    saved = state.state_dict()
    loaded = through_disk(tmp_path, state)
    assert list(loaded) == ["model", "optimizer", "scheduler", "scaler", "loader", "extra", *objects, "rng"]
    assert same(loaded, saved)
    assert {"python", "numpy", "torch"} <= set(loaded["rng"])
    moments = loaded["optimizer"]["state"]["0.weight"]
    assert float(moments["step"]) == 5.0 and moments["exp_avg_sq"].count_nonzero()
    assert loaded["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.95)


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    numpy_own, python_own = np.random.default_rng(3), random.Random(4)
    state = TrainState(nn.Linear(1, 1), noise=numpy_own, shuffle=python_own, extra=(own := torch.Generator()))

    def draw() -> list[float]:
        globals_ = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return [*globals_, numpy_own.random(), python_own.random(), float(torch.rand((), generator=own))]

    loaded = through_disk(tmp_path, state)
    first = draw()
    assert draw() != first
    state.load_state_dict(loaded)
    assert draw() == first


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4, 4]),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.LinearLR(o, 0.1), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [3]
        ),
    ],
    ids=["multistep", "onecycle", "lambda", "restarts", "sequential"],
)
def test_schedulers_go_on(tmp_path: Path, make: Any) -> None:
    def build() -> tuple[nn.Module, Any, Any]:
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, make(optimizer)

    def rates(model: nn.Module, optimizer: Any, scheduler: Any, steps: int) -> list[float]:
        found: list[float] = []
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    straight = build()
    rates(*straight, 4)
    loaded = through_disk(tmp_path, TrainState(*straight))
    resumed = build()
    TrainState(*resumed).load_state_dict(loaded)
    assert rates(*resumed, 5) == rates(*straight, 5)
    assert same(resumed[0].state_dict(), straight[0].state_dict())


def test_an_optimizer_without_state_stays_without_state(tmp_path: Path) -> None:
    training = Training()
    steps: list[int] = []
    training.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    loaded = through_disk(tmp_path, training.state())
    assert loaded["optimizer"]["state"] == {} and not training.optimizer.state and not steps
    other = Training()
    other.run(0, 2)
    other.state().load_state_dict(loaded)
    assert not other.optimizer.state


def test_moments_of_another_dtype_than_their_parameter_stay_exact(tmp_path: Path) -> None:
    model = nn.Linear(2, 1).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.state[model.weight] = {"step": torch.tensor(3.0), "exp_avg": torch.tensor([[0.1, 0.2]])}
    loaded = through_disk(tmp_path, TrainState(model, optimizer))
    fresh = torch.optim.AdamW(model.parameters())
    TrainState(model, fresh).load_state_dict(loaded)
    assert same(fresh.state[model.weight]["exp_avg"], torch.tensor([[0.1, 0.2]]))


def test_names_are_those_of_the_bare_model() -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

    inner = nn.Sequential(Wrapped(nn.Linear(1, 1)))
    assert [name for name, _ in parameter_names(Wrapped(inner))] == ["0.weight", "0.bias"]


def test_large_and_odd_tensors_of_further_objects(tmp_path: Path) -> None:
    class Buffer:
        def __init__(self) -> None:
            self.held = {"big": torch.arange(40_000.0), "array": np.arange(30_000), 3: (torch.arange(9)[::2],)}

        def state_dict(self) -> dict[Any, Any]:
            return self.held

        def load_state_dict(self, state: Any) -> None:
            self.held = state

    buffer = Buffer()
    loaded = through_disk(tmp_path, TrainState(nn.Linear(1, 1), buffer=buffer))
    assert same(loaded["buffer"], buffer.held)


def test_what_cannot_be_saved_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"seed: a int has no state_dict\(\)"):
        TrainState(nn.Linear(1, 1), seed=3)
    training = Training()
    training.loader.state_dict = lambda: {"rows": {1, 2}}
    with (
        Checkpointer(Notes(tmp_path), training.state(), Policy()) as saves,
        pytest.raises(UsageError, match=r"loader\.rows: a builtins\.set cannot go into a checkpoint"),
    ):
        saves.save(1, "recovery")
    assert not list((tmp_path / "recovery").glob("*"))
