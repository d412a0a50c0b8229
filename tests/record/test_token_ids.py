"""Token ids around an incident: the right batches, with the ids they were trained on, and no others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.errors import UsageError
from postmortem.record import Recorder, RecordingWarning
from postmortem.record.token_ids import KeptBatch, RecentBatches, ids_of
from postmortem.run import Run
from postmortem.sources import open_run


def _batch(step: int) -> np.ndarray:
    return np.arange(8, dtype=np.int64).reshape(2, 4) + 10 * step


def _kept(run: Run) -> dict[int, Any]:
    ids = run.labels("token_ids")
    return {} if ids is None else {int(step): ids.at(int(step)) for step in ids.step}


def _train(path: Path, steps: int, bad: int, **keys: Any) -> Run:
    with Recorder(path, flush_interval_s=0.05, provenance=False, **keys) as rec:
        for step in range(steps):
            rec.batch(step, _batch(step), index=step)
            rec.log(step, loss=math.nan if step == bad else 2.0)
    return open_run(path)


def test_the_ring_and_the_steps_after_an_incident_are_written(tmp_path: Path) -> None:
    run = _train(tmp_path / "run", 200, bad=120)
    kept = _kept(run)
    assert sorted(kept) == list(range(120 - 63, 120 + 16 + 1))
    assert all(kept[step] == _batch(step).tolist() for step in kept)
    hashes = run.labels("batch_hash")
    assert hashes is not None and len(hashes) == 200, "the ids join the rows of their batches"


@pytest.mark.parametrize(("policy", "expected"), [("always", 40), ("never", 0)])
def test_all_or_none(tmp_path: Path, policy: str, expected: int) -> None:
    assert len(_kept(_train(tmp_path / "run", 40, bad=20, token_ids=policy))) == expected


def test_a_calm_run_writes_none(tmp_path: Path) -> None:
    assert _kept(_train(tmp_path / "run", 100, bad=-1)) == {}


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_buffer_that_was_used_again_is_dropped(tmp_path: Path, kind: str) -> None:
    buffers = [np.zeros((2, 4), np.int64) for _ in range(4)]
    given: list[Any] = list(buffers)
    if kind == "tensor":
        torch = pytest.importorskip("torch")
        given = [torch.from_numpy(buffer) for buffer in buffers]
    with Recorder(tmp_path / "run", provenance=False) as rec:
        for step in range(20):
            buffers[step % 4][:] = _batch(step)
            rec.batch(step, given[step % 4])
            rec.log(step, loss=2.0)
        rec.incident(19, "spike")
        for buffer in buffers:
            buffer[:] = -1  # what is due was copied when the incident opened
    run = open_run(tmp_path / "run")
    assert _kept(run) == {step: _batch(step).tolist() for step in range(16, 20)}
    (lost,) = [event for event in run.journal if event.event == "token_ids_lost"]
    assert lost.keys["batches"] == 16 and lost.step == 19


def test_the_decode_hook_gives_text(tmp_path: Path) -> None:
    calls: list[list[int]] = []

    def decode(ids: list[int]) -> str:
        calls.append(ids)
        return "·".join(map(str, ids))

    with Recorder(tmp_path / "run", decode=decode, provenance=False) as rec:
        rec.batch(0, [[1, 2], [3, 4]])
        rec.log(0, loss=2.0)
        assert not calls
        rec.incident(0, "spike")
    text = open_run(tmp_path / "run").labels("sample_text")
    assert text is not None and text.at(0) == ["1·2", "3·4"] and calls == [[1, 2], [3, 4]]


def test_a_decode_hook_that_fails_costs_the_text_only(tmp_path: Path) -> None:
    rec = Recorder(tmp_path / "run", decode=lambda ids: str(1 / 0), provenance=False)
    rec.batch(0, [[1, 2]])
    rec.log(0, loss=2.0)
    rec.incident(0, "spike")
    with pytest.warns(RecordingWarning, match="decode failed: ZeroDivisionError"):
        rec.close()
    assert _kept(open_run(tmp_path / "run")) == {0: [[1, 2]]}


def test_going_back_gives_ids_to_the_attempt_that_trained_on_them(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", provenance=False) as rec:
        for step in range(6):
            rec.batch(step, _batch(step))
            rec.log(step, loss=2.0)
        rec.event("rollback", 6, from_step=6, to_step=4)
        for step in range(4, 6):
            rec.batch(step, _batch(step + 100))
            rec.log(step, loss=2.0)
        rec.incident(5, "spike")
    run = open_run(tmp_path / "run")
    assert _kept(run) == {step: _batch(step + (100 if step >= 4 else 0)).tolist() for step in range(6)}


def test_the_ring_is_bounded_by_number_and_bytes() -> None:
    from postmortem.record.hashing import batch_hash

    def push(ring: RecentBatches, count: int) -> list[int]:
        for step in range(count):
            ring.add(KeptBatch(0, step, _batch(step), batch_hash(_batch(step))))
        return [kept.step for kept in ring.take_all()[0]]

    assert push(RecentBatches(most=3), 10) == [7, 8, 9]
    assert push(RecentBatches(limit=5 * 64), 10) == [5, 6, 7, 8, 9]
    assert push(RecentBatches(limit=63), 10) == []


def test_ids_are_found_in_what_loaders_hand_over() -> None:
    torch = pytest.importorskip("torch")
    ids = torch.arange(6).reshape(2, 3)
    expected = ids.numpy()
    labels = torch.zeros(2, 3)
    for batch in (
        ids, expected, expected.tolist(), tuple(expected.tolist()), (ids, labels), [ids, labels],
        {"input_ids": ids, "labels": labels}, {"labels": labels, "tokens": expected}, ({"x": ids}, labels),
        {"ids": expected.tolist()},
    ):  # fmt: skip
        np.testing.assert_array_equal(np.asarray(ids_of(batch)), expected)
    for batch, message in (
        ({"pixels": ids}, "none of input_ids"), ("text", "a str holds no token ids"), ([], "a list holds"),
        ([[1, 2], [3]], "differ in length"), ([["a"]], "a list holds no token ids"), (object(), "a object holds"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            ids_of(batch)
