"""Rows as they are handed over: what a cell may hold, read at once, because arrays and tensors change."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UsageError
from postmortem.record.input_warnings import InputWarnings
from postmortem.record.transfer import is_tensor
from postmortem.text import plain

if TYPE_CHECKING:
    from torch import Tensor

_MOST_ELEMENTS = 4_096


def plain_numbers(row: Mapping[str, Any]) -> bool:
    """Whether a row holds finite numbers and nothing else, by one sum: what else there is makes it fail, makes it no
    number of Python's, or makes it non-finite. A sum that overflows says no as well; then each value is looked at."""
    try:
        total = sum(row.values())
    except Exception:  # of any type that somebody logs
        return False
    return type(total) is int or (type(total) is float and math.isfinite(total))


class Cells:
    """Reads rows value by value. `tensor` is torch's class once a tensor was met, so that others are known quickly."""

    def __init__(self, complaints: InputWarnings) -> None:
        self.tensor: type[Any] | None = None
        self._complaints = complaints

    def read(self, columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor] | None, list[str] | None]:
        """(values on the host, tensors on a device, names of values that are not finite) of a row.

        What no cell can hold is left out and complained of.
        """
        row: dict[str, Any] = {}
        device: dict[str, Tensor] | None = None
        odd: list[str] | None = None
        tensor = self.tensor
        for name, value in columns.items():
            kind = type(value)
            if kind is float or kind is int:
                pass
            elif kind is tensor and value.is_cpu:
                try:
                    value = value.item()
                except RuntimeError:  # of several elements
                    value = self._cell(name, value)
            elif value is None:
                continue
            elif kind is not str and kind is not bool:
                if is_tensor(value):
                    self.tensor = sys.modules["torch"].Tensor
                    if not value.is_cpu:
                        device = {} if device is None else device
                        device[name] = value
                        continue
                value = self._cell(name, value)
                if value is None:
                    continue
            if type(value) is float and value - value != 0.0:
                odd = [name] if odd is None else [*odd, name]
            row[name] = value
        return row, device, odd

    def _cell(self, name: str, value: object) -> Any:
        try:
            return cell(name, value)
        except UsageError as error:
            self._complaints.add(name, error)
        except Exception as error:  # of a type that does not let itself be read
            reason = f"{type(error).__name__}: {plain(error)}"
            said = f"{plain(name, 60)} is a {type(value).__name__} without a value ({reason})"
            self._complaints.add(name, said)
        return None


def cell(name: str, value: object) -> float | int | str | list[Any]:
    """A value on the host as a number, text or list.

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
