"""TensorBoard event files that are cut, damaged, of another kind, or too much."""

from __future__ import annotations

import io
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("torch")

from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from postmortem.errors import PostmortemError, UnreadableInput
from postmortem.sources import Candidate, _event_file, open_run
from postmortem.sources.tensorboard_events import SOURCE
from tests.sources.event_files import START, Event, Summary, event_file, falling, framed, log
from tests.sources.helpers import losses, write


@pytest.mark.parametrize("block", [64, 200, 2**20])
def test_blocks_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    path = log(tmp_path, {"loss": falling, "learning_rate": lambda t: 0.5}, range(300))
    monkeypatch.setattr(_event_file, "_BLOCK", block)
    assert len(losses(open_run(path))) == 300
    if block == 64:  # events longer than a block are passed over
        with path.open("ab") as file:
            file.write(framed(Event(wall_time=START, step=300, summary=Summary(value=[Summary.Value(tag="x" * 90)]))))
            file.write(framed(Event(step=301, summary=Summary(value=[Summary.Value(tag="loss", simple_value=3.0)]))))
        run = open_run(path)
        assert losses(run)[301] == 3.0 and any("2 oversized events" in note for note in run.notes)


def test_a_file_cut_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    path = log(tmp_path, {"loss": falling}, range(5))
    data = path.read_bytes()
    read = longest = 0
    for size in range(len(data)):
        cut = write(tmp_path, "cut/events.out.tfevents.1", data[:size])
        try:
            run = open_run(cut)
        except UnreadableInput:
            continue
        read, longest = read + 1, len(losses(run))
        assert losses(run) == {t: pytest.approx(falling(t), rel=1e-6) for t in range(longest)}
        assert any("ends in the middle of an event at byte" in note for note in run.notes) or len(data) - size > 40
    assert read > len(data) / 2 and longest == 4


def test_damage_is_told_with_its_byte(tmp_path: Path) -> None:
    path = log(tmp_path, {"loss": falling}, range(50))
    data = bytearray(path.read_bytes())
    one = (len(data) - data.index(b"loss")) // 50
    write(tmp_path, "zeros/events.out.tfevents.1", bytes(data) + bytes(500))
    zeros = open_run(tmp_path / "zeros")
    assert len(losses(zeros)) == 50 and any(
        f"has zeros instead of an event at byte {len(data):,}" in n for n in zeros.notes
    )
    data[-one - 10] ^= 1  # the value of the event before the last one
    damaged = open_run(write(tmp_path, "damaged/events.out.tfevents.1", bytes(data)))
    assert set(losses(damaged)) == set(range(50)) - {48}
    assert any("1 damaged event was left out, the first at byte" in note for note in damaged.notes)
    data[data.index(b"loss", 1000) - 40] ^= 1
    torn = open_run(write(tmp_path, "torn/events.out.tfevents.1", bytes(data)))
    assert len(losses(torn)) < 50


def test_other_content_is_refused_or_left_to_other_formats(tmp_path: Path) -> None:
    text = write(tmp_path, "a/events.out.tfevents.9", "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UnreadableInput, match="is no TensorBoard event file"):
        open_run(text)
    with pytest.raises(UnreadableInput, match="empty"):
        open_run(write(tmp_path, "b/events.out.tfevents.9", ""))
    with pytest.raises(UnreadableInput, match="has a value"):
        open_run(tmp_path / "b")
    bare = log(tmp_path / "c", {}, range(0))
    with pytest.raises(UnreadableInput, match="has no scalar"):
        open_run(bare)
    good = log(tmp_path / "d", {"loss": falling}, range(9)).rename(tmp_path / "d" / "renamed")
    assert len(losses(open_run(good))) == 9, "by its content"
    shutil.copy(good, tmp_path / "a" / "events.out.tfevents.10")
    mixed = open_run(tmp_path / "a")
    assert len(losses(mixed)) == 9 and any("is no TensorBoard event file" in note for note in mixed.notes)
    write(tmp_path, "a/metrics.csv", "step,loss\n0,1\n1,2\n")
    assert losses(open_run(tmp_path / "a")) == {0: 1.0, 1: 2.0}, "a bare folder is called by its metrics.*"
    assert SOURCE.sniff(Candidate(tmp_path / "absent")) is None


def test_many_tags_are_bounded(tmp_path: Path) -> None:
    def event(step: int) -> Any:
        values = [Summary.Value(tag=f"tag{step * 100 + i}", simple_value=1.0) for i in range(100)]
        return Event(
            wall_time=START, step=step, summary=Summary(value=[*values, Summary.Value(tag="loss", simple_value=2)])
        )

    run = open_run(event_file(tmp_path, *map(event, range(60))))
    assert len(losses(run)) == 60 and len(run.other_columns) == 4095
    assert any("tags beyond the first 4,096 were ignored" in note for note in run.notes)


def test_many_tags_of_many_writers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from postmortem.sources import _event_rows

    monkeypatch.setattr(_event_rows, "MOST_COLUMNS", 3)
    for i in range(3):
        log(tmp_path / f"w{i}", {f"loss{i}": falling, f"x{i}": falling}, range(5))
    run = open_run(tmp_path)
    assert len(run.other_columns) + len(run.columns) == 4, "the time, too"
    assert any("tags beyond the first 3 were ignored" in note for note in run.notes)


def test_points_without_company_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from postmortem.sources import _event_rows

    monkeypatch.setattr(_event_rows, "_FREE_CELLS", 100)
    events = [
        Event(wall_time=START, step=t, summary=Summary(value=[Summary.Value(tag=f"tag{t}", simple_value=1)]))
        for t in range(50)
    ]
    with pytest.raises(UnreadableInput, match="50 steps have 50 tags, but 1 on average"):
        open_run(event_file(tmp_path, *events))


def test_endless_variety_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_event_file, "_MOST_BY_HAND", 200)
    events = [
        Event(wall_time=START, step=t, summary=Summary(value=[Summary.Value(tag="x" * (t + 1), simple_value=1)]))
        for t in range(100)
    ]
    with pytest.raises(UnreadableInput, match="ever new ways"):
        open_run(event_file(tmp_path, *events))
    monkeypatch.setattr(_event_file, "_MOST_POINTS", 20)
    with pytest.raises(UnreadableInput, match="more than 20 points"):
        open_run(log(tmp_path / "points", {"loss": falling}, range(30)))


@pytest.mark.heavy
def test_damaged_input_ends_in_a_run_or_a_message(tmp_path: Path) -> None:
    rng = random.Random(20)
    path = log(tmp_path, {"loss": falling, "train/grad_norm": lambda t: 1.0}, range(12))
    seed = path.read_bytes()
    tensor = Summary.Value(tag="loss", tensor=tensor_util.make_tensor_proto(np.float32(3)))
    seed += framed(*(Event(wall_time=START, step=t, summary=Summary(value=[tensor])) for t in range(12, 20)))
    for _ in range(2000):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.choice((0, 1, 1, 9))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
        repaired = with_right_crcs(bytes(data)) if rng.random() < 0.7 else bytes(data)
        try:
            open_run(write(tmp_path, "x/events.out.tfevents.1", repaired))
        except PostmortemError:
            continue


def with_right_crcs(data: bytes) -> bytes:
    """The events of a damaged file framed again, so that the damage reaches the reader of events."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    at = 0
    while at + 12 <= len(data):
        length = struct.unpack_from("<Q", data, at)[0] % 2**16
        writer.write(data[at + 12 : at + 12 + length])
        at += 16 + length
    return buffer.getvalue()
