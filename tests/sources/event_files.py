"""Event files of TensorBoard, as its own writers write them."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("torch")

from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from postmortem.run import Run
from tests.sources.helpers import write

Event: Any = pytest.importorskip("tensorboard.compat.proto.event_pb2").Event
Summary: Any = pytest.importorskip("tensorboard.compat.proto.summary_pb2").Summary
START = 1_700_000_000.0


def log(folder: Path, tags: dict[str, Any], steps: range, *, start: float = START) -> Path:
    """The file of a writer that logged each tag's `value(step)` in each step, a second apart."""
    before = set(folder.glob("*tfevents*"))
    writer = SummaryWriter(str(folder))
    for i, step in enumerate(steps):
        for tag, value in tags.items():
            writer.add_scalar(tag, value(step), step, walltime=start + i)
    writer.close()
    (path,) = set(folder.glob("*tfevents*")) - before
    _start_at(path, start - 1)
    return path


def _start_at(path: Path, when: float) -> None:
    """Give the first event of a file, which only names the version, another time."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    event = Event.FromString(data[12 : 12 + length])
    event.wall_time = when
    path.write_bytes(framed(event) + data[12 + length + 4 :])


def framed(*events: Any) -> bytes:
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def event_file(path: Path, *events: Any) -> Path:
    return write(
        path, "events.out.tfevents.1.host", framed(Event(wall_time=START, file_version="brain.Event:2"), *events)
    )


def falling(step: int) -> float:
    return 4.0 / (1 + step)


def column(run: Run, name: str) -> dict[int, float]:
    series = run.series(name)
    return {} if series is None else dict(zip(series.step.tolist(), series.value.tolist(), strict=True))
