"""Where the scalars of a TensorBoard event stand among its bytes, and in all events that are laid out like it.

The messages are tensorflow/core/util/event.proto (Event), framework/summary.proto (Summary.Value) and
framework/tensor.proto (TensorProto). Nothing here knows more of them than scalars need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.run.thrift import Damaged
from postmortem.series import Steps, Values
from postmortem.sources._wire import BYTES, FIXED32, FIXED64, VARINT, fields, varint

Bytes = NDArray[np.uint8]
Span = tuple[int, int]
"""First byte, and the byte behind the last."""

_KINDS_OF_VALUES = {4: "image", 5: "histogram", 6: "audio clip"}
_SCALARS = "scalars"  # the name of TensorBoard's plugin for them
_BFLOAT16, _STRING = "bfloat16", 7
_DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "u1", 14: _BFLOAT16, 17: "<u2", 19: "<f2",
    22: "<u4", 23: "<u8",
}  # fmt: skip
"""numpy's type of each DataType that is a real number."""

_IN_FIELD = {5: "<f4", 6: "<f8"}
"""Fields of a tensor that have numbers of a fixed width: float_val, double_val."""

_AS_VARINT = frozenset((7, 10, 11, 13, 16, 17))
"""int_val, int64_val, bool_val, half_val, uint32_val and uint64_val."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number of an event: where its tag and its value stand. `value` is empty for a tensor without one, which is 0;
    `dtype` is what it is in the end, `is_varint` that it is written as a varint."""

    tag: Span
    value: Span
    dtype: str
    is_varint: bool


@dataclass(frozen=True, slots=True)
class EventLayout:
    """The layout of an event: its time of day (float64), its step (varint), its scalars; None where it has none.

    `others` names the kinds of its values that are no scalars.
    """

    time: Span | None
    step: Span | None
    scalars: tuple[Scalar, ...]
    others: tuple[str, ...]

    def alike(self, events: Bytes) -> NDArray[np.bool_]:
        """Which of the events uint8[n, length] are laid out like the first, of which this is the layout: bool[n]."""
        mask = np.full(events.shape[1], 255, np.uint8)
        for span in [self.time, *(scalar.tag for scalar in self.scalars), *self._values(is_varint=False)]:
            if span is not None:
                mask[span[0] : span[1]] = 0
        for span in [self.step, *self._values(is_varint=True)]:
            if span is not None:
                mask[span[0] : span[1]] = 128  # whether another byte follows
        return ((events & mask) == (events[0] & mask)).all(axis=1)

    def _values(self, *, is_varint: bool) -> list[Span]:
        return [scalar.value for scalar in self.scalars if scalar.is_varint == is_varint]


def layout_of(event: bytes) -> EventLayout:
    """The layout of one event.

    Raises:
        Damaged: the bytes are no event.
    """
    time: Span | None = None
    step: Span | None = None
    scalars: list[Scalar] = []
    others: list[str] = []
    for number, kind, start, end in fields(event, 0, len(event)):
        if number == 1 and kind == FIXED64:
            time = start, end
        elif number == 2 and kind == VARINT:
            step = start, end
        elif number == 5 and kind == BYTES:
            for value in _values(event, start, end):
                if isinstance(value, Scalar):
                    scalars.append(value)
                else:
                    others.append(value)
    return EventLayout(time, step, tuple(scalars), tuple(others))


def _values(event: bytes, at: int, end: int) -> Iterator[Scalar | str]:
    """The values of a summary: scalars, and the kind of each other value."""
    for number, kind, start, stop in fields(event, at, end):
        if number == 1 and kind == BYTES:
            yield _value(event, start, stop)


def _value(event: bytes, at: int, end: int) -> Scalar | str:
    tag: Span = (at, at)
    plugin = _SCALARS
    tensor: Span | None = None
    simple: Span | None = None
    for number, kind, start, stop in fields(event, at, end):
        if number == 1 and kind == BYTES:
            tag = start, stop
        elif number == 2 and kind == FIXED32:
            simple = start, stop
        elif number == 8 and kind == BYTES:
            tensor = start, stop
        elif number == 9 and kind == BYTES:
            plugin = _plugin(event, start, stop) or _SCALARS
        elif number in _KINDS_OF_VALUES and kind == BYTES:
            return _KINDS_OF_VALUES[number]
    if simple is not None:
        return Scalar(tag, simple, "<f4", is_varint=False)
    if plugin != _SCALARS:
        return f"{plugin} value"
    if tensor is None:
        return "empty value"
    return _tensor(event, tensor, tag)


def _plugin(event: bytes, at: int, end: int) -> str:
    """The name of the plugin in a value's metadata; "" where it has none."""
    for number, kind, start, stop in fields(event, at, end):
        if number == 1 and kind == BYTES:
            for inner, inner_kind, first, last in fields(event, start, stop):
                if inner == 1 and inner_kind == BYTES:
                    return event[first : min(last, first + 60)].decode(errors="replace")
    return ""


def _tensor(event: bytes, tensor: Span, tag: Span) -> Scalar | str:
    """A tensor of one real number as a scalar; of several, or of text, what it is."""
    kind_of = dims = 0
    values: list[Scalar] = []
    several = False
    for number, kind, start, end in fields(event, *tensor):
        if number == 1 and kind == VARINT:
            kind_of, _ = varint(event, start, end)
        elif number == 2 and kind == BYTES:
            dims = sum(inner == 2 for inner, *_ in fields(event, start, end))
        elif number == 4 and kind == BYTES:
            dtype = _DTYPES.get(kind_of, "")
            several |= not dtype or end - start != _width(dtype)
            values.append(Scalar(tag, (start, end), dtype, is_varint=False))
        elif number in _IN_FIELD and kind in (BYTES, FIXED32, FIXED64):
            several |= end - start != _width(_IN_FIELD[number])
            values.append(Scalar(tag, (start, end), _IN_FIELD[number], is_varint=False))
        elif number in _AS_VARINT and kind in (BYTES, VARINT):
            several |= kind == BYTES and (start == end or varint(event, start, end)[1] != end)
            values.append(Scalar(tag, (start, end), _DTYPES.get(kind_of, ""), is_varint=True))
    if kind_of not in _DTYPES:
        return "text" if kind_of == _STRING else "tensor"
    if several or len(values) > 1 or (not values and dims):
        return "tensor"
    return values[0] if values else Scalar(tag, (tensor[1], tensor[1]), _DTYPES[kind_of], is_varint=False)


def _width(dtype: str) -> int:
    return 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize


def times(events: Bytes, layout: EventLayout) -> Values:
    """The time of day of each event in unix seconds, float64[n]; NaN without one."""
    if layout.time is None:
        return np.full(events.shape[0], np.nan)
    return _fixed(events, layout.time, "<f8")


def steps(events: Bytes, layout: EventLayout) -> Steps:
    """The step of each event, int64[n]; 0 without one."""
    if layout.step is None:
        return np.zeros(events.shape[0], np.int64)
    return _varints(events, layout.step).view(np.int64)


def values(events: Bytes, scalar: Scalar) -> Values:
    """One scalar of each event, float64[n]."""
    if scalar.value[0] == scalar.value[1]:
        return np.zeros(events.shape[0])
    if not scalar.is_varint:
        return _fixed(events, scalar.value, scalar.dtype)
    raw = _varints(events, scalar.value)
    if scalar.dtype in ("<f2", _BFLOAT16):
        return _from_bits(raw.astype(np.uint16), scalar.dtype)
    return raw.astype(np.float64) if scalar.dtype in ("<u4", "<u8") else raw.view(np.int64).astype(np.float64)


def _fixed(events: Bytes, span: Span, dtype: str) -> Values:
    start, end = span
    content = np.ascontiguousarray(events[:, start:end])
    if dtype == _BFLOAT16:
        return _from_bits(content.view("<u2")[:, 0], dtype)
    return content.view(dtype)[:, 0].astype(np.float64)


def _from_bits(bits: NDArray[np.uint16], dtype: str) -> Values:
    if dtype == _BFLOAT16:
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(np.float16).astype(np.float64)


def _varints(events: Bytes, span: Span) -> NDArray[np.uint64]:
    start, end = span
    value = np.zeros(events.shape[0], np.uint64)
    for i in range(start, end):
        value |= (events[:, i] & 127).astype(np.uint64) << np.uint64(7 * (i - start))
    return value


def event_version(event: bytes) -> str:
    """What the first event of a file says that it is, such as `brain.Event:2`; "" where it says nothing."""
    try:
        for number, kind, start, end in fields(event, 0, len(event)):
            if number == 3 and kind == BYTES:
                return event[start : min(end, start + 60)].decode(errors="replace")
    except Damaged:
        pass
    return ""
