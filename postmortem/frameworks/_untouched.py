"""Looking without leaving a trace."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def same_draws() -> Generator[None]:
    """Whatever is drawn within from the process's generators, they go on as if it had not been."""
    held = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            random.setstate(held[0])
            np.random.set_state(held[1])


@contextmanager
def untouched(model: nn.Module) -> Generator[None]:
    """A forward and backward pass within changes nothing: gradients, buffers (the running statistics of a BatchNorm),
    modes and generators are afterwards as they were before. Within, there are no gradients at first."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with same_draws():
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, mode in modes:
            module.training = mode
