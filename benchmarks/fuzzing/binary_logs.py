"""TensorBoard events and W&B records, written without the libraries that write them: sound seeds, and damaged messages
in sound frames, which reach what a wrong CRC would hide.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from postmortem.sources._crc32c import masked_crc

START = 1.7e9  # unix seconds


def event_file(events: Iterable[bytes]) -> bytes:
    """Events as a file."""
    return b"".join(_framed_event(event) for event in events)


def _framed_event(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked_crc(length)) + event + struct.pack("<I", masked_crc(event))


def events(rows: Sequence[dict[str, Any]], start: float = START) -> list[bytes]:
    """The first event, and one for each value of each row: the loss as a tensor, a histogram among them."""
    first = struct.pack("<Bd", 9, start) + _bytes(3, b"brain.Event:2")
    values = [(row["step"], name, value) for row in rows for name, value in row.items() if name != "step"]
    return [first, *(_event(start, *value) for value in values)]


def _event(start: float, step: int, tag: str, value: float) -> bytes:
    simple = b"\x15" + struct.pack("<f", value)
    tensor = b"\x08\x01\x12\x00" + _bytes(5, struct.pack("<f", value))
    content = _bytes(8, tensor) + _bytes(9, _bytes(1, _bytes(1, b"scalars"))) if tag == "loss" else simple
    histogram = _bytes(1, _bytes(1, b"weights") + _bytes(5, bytes(9))) if step % 30 == 0 else b""
    summary = _bytes(1, _bytes(1, tag.encode()) + content) + histogram
    return struct.pack("<Bd", 9, start + step) + b"\x10" + _varint(step) + _bytes(5, summary)


def wandb_file(records: Iterable[bytes]) -> bytes:
    """Records as a file: chunks in blocks of 32 KiB."""
    file = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        at, first = 0, True
        while first or at < len(record):
            room = -len(file) % 32768 or 32768
            if room < 7:
                file += bytes(room)
                continue
            part = record[at : at + room - 7]
            at += len(part)
            kind = bytes(
                [{(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, at == len(record)]]
            )
            file += struct.pack("<IH", zlib.crc32(kind + part), len(part)) + kind + part
            first = False
    return bytes(file)


def wandb_records(rows: Sequence[dict[str, Any]]) -> list[bytes]:
    """The run with its config, a record for each row, and the exit."""
    config = _bytes(1, _item("seed", 3) + _item("model", {"layers": 2}))
    run = _bytes(17, _bytes(1, b"abc") + _bytes(8, b"brave-fox-1") + _bytes(4, config))
    history = [_bytes(2, b"".join(_bytes(1, _item(k, v)) for k, v in row.items())) for row in rows]
    return [run, *history, _bytes(18, b"\x08\x01")]


def _item(name: str, value: object) -> bytes:
    key = _bytes(2, b"_step") if name == "step" else _bytes(1, name.encode())
    return key + _bytes(16, json.dumps(value).encode())


def _bytes(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
