"""Collects everything that the next training step depends on, from the objects that have it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from postmortem.checkpoint.staging import SHARED
from postmortem.errors import UsageError

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state can be read and restored: a TrainState, a `postmortem.program.Program`, a loader."""

    def state_dict(self) -> Any:
        """The state: nested mappings of tensors and plain values."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore what is in `state`."""
        ...


class TrainState:
    """The state of a hand-written training loop, in named sections.

    model, optimizer: their tensors are stored under parameter names (without the prefixes of DDP, `torch.compile` and
        activation checkpointing), so that a checkpoint fits the same model in one process, under DDP or under FSDP2.
    scheduler, scaler, loader: any object with `state_dict()` and `load_state_dict()`.
    rng: the global generators of Python, NumPy and torch, and of each device.
    objects: more such objects, by name; also modules, optimizers, and generators of torch, NumPy and `random`.

    Raises:
        UsageError: an object whose state cannot be read.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: Stateful | None = None,
        scaler: Stateful | None = None,
        loader: Stateful | None = None,
        *,
        rng: bool = True,
        **objects: Any,
    ) -> None:
        objects_by_name = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
            "loader": loader,
            **objects,
            "rng": _GlobalGenerators() if rng else None,
        }
        self._sections = {
            name: _section(name, value, model) for name, value in objects_by_name.items() if value is not None
        }
        self.shared = frozenset(
            {*SHARED} | {name for name, value in objects.items() if isinstance(value, (nn.Module, Optimizer))}
        )
        """Sections whose plain tensors are the same on all ranks."""

    def state_dict(self) -> dict[str, Any]:
        """The sections; tensors are not copied."""
        return {name: section.state_dict() for name, section in self._sections.items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore the sections that are in `state`; the others stay as they are."""
        for name, section in self._sections.items():
            if name in state:
                section.load_state_dict(state[name])


def _section(name: str, value: Any, model: nn.Module) -> Stateful:
    if isinstance(value, nn.Module):
        return _Model(value)
    if isinstance(value, Optimizer):
        return _Optimizer(value, model)
    if isinstance(value, torch.Generator):
        return _Accessors(value.get_state, value.set_state)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        return _Accessors(lambda: bits.state, lambda state: setattr(bits, "state", state))
    if isinstance(value, random.Random):
        return _Accessors(value.getstate, value.setstate)
    if not isinstance(value, Stateful):
        raise UsageError(
            f"{name}: a {type(value).__name__} has no state_dict() and load_state_dict(), so it cannot be saved"
        )
    return value


class _Accessors:
    """A state that is read and restored by a getter and a setter."""

    def __init__(self, getter: Callable[[], Any], setter: Callable[[Any], Any]) -> None:
        self._getter, self._setter = getter, setter

    def state_dict(self) -> Any:
        return self._getter()

    def load_state_dict(self, state: Any, /) -> None:
        self._setter(state)


class _Model:
    """A module by parameter and buffer names."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def state_dict(self) -> dict[str, Any]:
        return dict(get_model_state_dict(self._module))

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        set_model_state_dict(self._module, dict(state), options=StateDictOptions(strict=False))


class _Optimizer:
    """An optimizer by parameter names: {"state": {name: {"exp_avg": …}}, "param_groups": [{"params": [name], …}]}.

    torch's own `get_optimizer_state_dict` makes an optimizer without state take a step first, which leaves its step
    count at 1 and runs its hooks. Here no state is no state.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module) -> None:
        self._optimizer, self._model = optimizer, model

    def state_dict(self) -> dict[str, Any]:
        native = self._optimizer.state_dict()
        names = self._by_index()
        groups = [{**group, "params": [names[i] for i in group["params"]]} for group in native["param_groups"]]
        return {**native, "state": {names[i]: entry for i, entry in native["state"].items()}, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        names = self._by_index()
        native: dict[str, Any] = {**self._optimizer.state_dict(), **state}
        if "state" in state:
            saved: Mapping[str, Any] = state["state"]
            native["state"] = {i: dict(saved[name]) for i, name in enumerate(names) if name in saved}
        if "param_groups" in state:
            saved_groups = {name: group for group in state["param_groups"] for name in group["params"]}
            native["param_groups"] = [
                {**next((saved_groups[names[i]] for i in group["params"] if names[i] in saved_groups), group), **ids}
                for group in self._optimizer.state_dict()["param_groups"]
                for ids in ({"params": group["params"]},)
            ]
        self._optimizer.load_state_dict(native)
        self._undo_casts(native["state"])

    def _by_index(self) -> list[str]:
        """Names of the parameters in the optimizer's order; parameters outside the model are named by their place."""
        groups = self._optimizer.param_groups
        names = {id(parameter): name for name, parameter in parameter_names(self._model)}
        return [
            names.get(id(parameter), f"group{g}.{i}")
            for g, group in enumerate(groups)
            for i, parameter in enumerate(group["params"])
        ]

    def _undo_casts(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """torch casts moments to their parameter's dtype on loading; restore those that had another dtype."""
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for index, entry in state.items():
            loaded: dict[str, Any] = self._optimizer.state[parameters[index]]
            for key, value in entry.items():
                cast_value = loaded.get(key)
                if isinstance(value, Tensor) and isinstance(cast_value, Tensor) and cast_value.dtype != value.dtype:
                    loaded[key] = value.to(cast_value.device)


def parameter_names(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of a model, without the prefixes of DDP, `torch.compile` and activation checkpointing."""
    for name, parameter in model.named_parameters():
        owner: Any = model
        parts: list[str] = []
        for part in name.split("."):
            wrapped = part in _WRAPPERS or (part == "module" and isinstance(owner, DistributedDataParallel))
            owner = getattr(owner, part)
            parts += [] if wrapped else [part]
        yield ".".join(parts), parameter


class _GlobalGenerators:
    """The global generators: python, numpy, torch, and those of accelerators by their type."""

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }
        for kind, module in _accelerators():
            state[kind] = [module.get_rng_state(i) for i in range(module.device_count())]
        return state

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        for key, restore in (
            ("python", random.setstate),
            ("numpy", np.random.set_state),
            ("torch", torch.set_rng_state),
        ):
            if key in state:
                cast(Callable[[Any], None], restore)(state[key])
        for kind, module in _accelerators():
            for index, saved in enumerate(state.get(kind, [])[: module.device_count()]):
                module.set_rng_state(saved, index)


def _accelerators() -> Iterator[tuple[str, Any]]:
    """(type, torch module) of the accelerator, if it is in use: reading an idle one would initialize it."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None:
        module: Any = torch.get_device_module(device)
        if module.is_initialized():
            yield device.type, module
