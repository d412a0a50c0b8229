"""Reads the values of a row at once, because arrays and tensors change later, and says what a cell can hold."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from postmortem.errors import UsageError
from postmortem.record._layers import TOKEN_IDS, TOKEN_LOSSES
from postmortem.record.input_warnings import InputWarnings
from postmortem.record.transfer import is_tensor
from postmortem.text import plain

if TYPE_CHECKING:
    from torch import Tensor

_MOST_ELEMENTS = 4_096
WATCHED_ARRAYS = (TOKEN_LOSSES, TOKEN_IDS)
"""What a watch measured for the background thread to reduce: of any size, and never written as it is."""


def finite_numbers_only(row: Mapping[str, Any]) -> bool:
    """Whether a row holds only finite Python numbers, found by one sum: any other value makes the sum fail, gives it
    another type, or makes it non-finite. A sum that overflows gives False, too; then each value is read by itself."""
    try:
        total = sum(row.values())
    except Exception:  # noqa: BLE001 - the user may log values of any type
        return False
    return type(total) is int or (type(total) is float and math.isfinite(total))


def take_arrays(row: dict[str, Any]) -> dict[str, NDArray[Any]] | None:
    """Remove the `WATCHED_ARRAYS` from `row` if they are on the host; their tensors are the watch's own."""
    losses = row.get(TOKEN_LOSSES)
    if losses is None or not losses.is_cpu:
        return None
    return {name: row.pop(name).numpy() for name in WATCHED_ARRAYS if row.get(name) is not None}


class CellReader:
    """Reads rows value by value. `tensor` is torch's class after the first tensor, to find the next ones quickly."""

    def __init__(self, input_warnings: InputWarnings) -> None:
        self.tensor: type[Any] | None = None
        self._warnings = input_warnings

    def read(  # noqa: C901 - the training waits for every function call here
        self, columns: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Tensor] | None, list[str] | None]:
        """(values on the host, tensors on a device, names of values that are not finite) of a row.

        A value that no cell can hold is left out with a warning.
        """
        row: dict[str, Any] = {}
        device: dict[str, Tensor] | None = None
        nonfinite: list[str] | None = None
        tensor = self.tensor
        for name, logged in columns.items():
            value = logged
            kind = type(logged)
            if kind is float or kind is int:
                pass
            elif kind is tensor and logged.is_cpu:
                try:
                    value = logged.item()
                except RuntimeError:  # of several elements
                    value = self._cell_or_warning(name, logged)
            elif logged is None:
                continue
            elif kind is not str and kind is not bool:
                if is_tensor(logged):
                    self.tensor = sys.modules["torch"].Tensor
                    if not logged.is_cpu:
                        device = {} if device is None else device
                        device[name] = logged
                        continue
                value = self._cell_or_warning(name, logged)
                if value is None:
                    continue
            if type(value) is float and value - value != 0.0:
                nonfinite = [name] if nonfinite is None else [*nonfinite, name]
            row[name] = value
        return row, device, nonfinite

    def _cell_or_warning(self, name: str, value: object) -> Any:
        try:
            return cell(name, value)
        except UsageError as error:
            self._warnings.add(name, error)
        except Exception as error:  # noqa: BLE001 - the user's type may raise anything
            reason = f"{type(error).__name__}: {plain(error)}"
            self._warnings.add(name, f"{plain(name, 60)} is a {type(value).__name__} without a value ({reason})")
        return None


def cell(name: str, value: object) -> float | int | str | list[Any]:
    """A value on the host as a number, text or list.

    Raises:
        UsageError: it is too large, or of a type that no cell holds.
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
