"""Copies values from an accelerator to the host so that only a background thread waits for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether `value` is a torch tensor; torch is never imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class Transfer:
    """A copy of tensors from one or several accelerators. It starts at once, in the order of the device's stream.

    The training thread pays for one kernel and one copy per dtype, whatever the number of tensors, and for no
    synchronization. Later changes of the tensors do not matter.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """`tensors` maps names to tensors of any shape, none of them on the CPU."""
        groups: dict[tuple[Any, Any], list[tuple[str, Tensor]]] = {}
        for name, tensor in tensors.items():
            groups.setdefault((tensor.device, tensor.dtype), []).append((name, tensor.detach()))
        self._copies = [_Copy(members) for members in groups.values()]
        self.device = str(next(iter(groups))[0])

    @property
    def ready(self) -> bool:
        """Whether the values have arrived; this never waits."""
        return all(copy.ready for copy in self._copies)

    def values(self) -> dict[str, Tensor]:
        """CPU tensors by name, of the original shapes. Waits for the device if they have not arrived."""
        return {name: tensor for copy in self._copies for name, tensor in copy.values()}


class _Copy:
    """Tensors of one device and dtype, joined there and copied at once."""

    def __init__(self, members: list[tuple[str, Tensor]]) -> None:
        import torch

        self._shapes = [(name, tensor.shape) for name, tensor in members]
        with torch.no_grad():
            self._host, self._event = start_copy(torch.cat([tensor.reshape(-1) for _, tensor in members]))

    @property
    def ready(self) -> bool:
        return self._event is None or bool(self._event.query())

    def values(self) -> list[tuple[str, Tensor]]:
        if self._event is not None:
            self._event.synchronize()
        parts = self._host.cpu().split([shape.numel() for _, shape in self._shapes])
        return [(name, part.reshape(shape)) for (name, shape), part in zip(self._shapes, parts, strict=True)]


def start_copy(joined: Tensor) -> tuple[Tensor, Any]:
    """(pinned memory that receives a copy of `joined`, the event that is done when the copy has arrived).

    On devices without such events: (`joined` itself, None), to be read where waiting does no harm.
    """
    import torch

    if joined.device.type not in ("cuda", "xpu"):
        return joined, None
    module = torch.get_device_module(joined.device)
    host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
    with module.device(joined.device):
        host.copy_(joined, non_blocking=True)
        event = module.Event()
        event.record(module.current_stream(joined.device))
    return host, event
