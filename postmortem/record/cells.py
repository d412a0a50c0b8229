"""What a cell of a row may hold."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UsageError
from postmortem.record.transfer import is_tensor
from postmortem.text import plain

_MOST_ELEMENTS = 4_096


def cell(name: str, value: object) -> float | int | str | list[Any]:
    """A value on the host as a number, text or list; read now, because arrays and tensors change.

    Raises:
        UsageError: it is too large, or nothing that a cell holds.
    """
    if is_tensor(value) or isinstance(value, (np.ndarray, np.generic)):
        array = cast("NDArray[Any]", value)
        size = 1
        for length in array.shape:
            size *= length
        if size == 1:
            return array.item()
        if size <= _MOST_ELEMENTS:
            return array.tolist()
        raise UsageError(f"{plain(name, 60)} has {size} elements; a cell holds at most {_MOST_ELEMENTS}")
    if isinstance(value, (float, int, str)):
        return value
    if isinstance(value, (list, tuple)):
        values = [*cast("list[Any]", value)]
        if len(values) <= _MOST_ELEMENTS:
            return values
    convert = getattr(value, "__float__", None)
    if convert is not None:
        return float(convert())
    raise UsageError(f"{plain(name, 60)} is a {type(value).__name__}; a cell holds a number, a text or a short list")
