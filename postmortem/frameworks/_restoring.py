"""Context managers after which random generators and models are in the same state as before."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def restored_generators() -> Generator[None]:
    """Restore the global random generators afterwards, whatever was drawn from them."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def restored_state(model: nn.Module) -> Generator[None]:
    """Restore `model` after a forward and backward pass: its gradients, buffers (such as the running statistics of
    BatchNorm) and modes, and the global generators. Inside, the gradients are None at first."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with restored_generators():
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, mode in modes:
            module.training = mode
