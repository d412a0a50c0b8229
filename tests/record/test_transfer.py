"""Tensors in a row: read at once on the CPU, copied asynchronously on a device, waited for in the background only."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from postmortem.record import Recorder
from postmortem.record import transfer as transfer_module
from postmortem.record.transfer import Transfer
from postmortem.sources import open_run


class Far(torch.Tensor):
    """A tensor that says it lies on a device, and that nobody may read on the training thread."""

    is_cpu = False
    forbidden: int | None = None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = ("item", "tolist", "__float__", "__bool__", "numpy", "cpu", "__array__")
        if getattr(func, "__name__", "") in reads and threading.get_ident() == cls.forbidden:
            raise AssertionError(f"{func.__name__} on the training thread")
        return super().__torch_function__(func, types, args, kwargs or {})


class Arrival:
    """A device's event that happens when the test says so."""

    def __init__(self) -> None:
        self.happened = threading.Event()
        self.waited_by: list[int] = []

    def query(self) -> bool:
        return self.happened.is_set()

    def synchronize(self) -> None:
        self.waited_by.append(threading.get_ident())
        assert self.happened.wait(10)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Arrival:
    """Copies that arrive, as they were when they were begun, once the event has happened."""
    arrival = Arrival()

    def start_copy(joined: Any) -> tuple[Any, Arrival]:
        return joined.as_subclass(torch.Tensor).clone(), arrival

    monkeypatch.setattr(transfer_module, "start_copy", start_copy)
    monkeypatch.setattr(Far, "forbidden", threading.get_ident())
    return arrival


def far(value: Any, dtype: Any = None) -> Any:
    return torch.tensor(value, dtype=dtype).as_subclass(Far)


def _wait_for(met: Any) -> None:
    deadline = time.monotonic() + 10
    while not met() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert met()


def _tail(run: Path) -> str:
    tail = run / "metrics" / "tail-0-0.jsonl"
    return tail.read_text() if tail.exists() else ""


def test_cpu_tensors_are_read_at_once(tmp_path: Path) -> None:
    loss = torch.tensor(2.5, requires_grad=True)
    many = torch.arange(3)
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.log(
            0,
            loss=loss,
            grad_norm=torch.tensor([0.5]),
            per_expert=many,
            tokens=torch.tensor(7),
            skipped=torch.tensor(True),
        )
        with torch.no_grad():
            loss += 1
            many += 1
        rec.log(1, loss=torch.tensor(math.nan))
        assert '"NaN"' in _tail(tmp_path / "run")
    run = open_run(tmp_path / "run")
    read, norm, experts, tokens = (
        run.series("loss"),
        run.series("grad_norm"),
        run.labels("per_expert"),
        run.series("tokens"),
    )
    assert read is not None and norm is not None and experts is not None and tokens is not None
    assert read.at(0) == 2.5 and norm.at(0) == 0.5 and experts.at(0) == [0, 1, 2] and tokens.at(0) == 7


def test_a_transfer_joins_tensors_of_one_dtype_and_splits_them_again(device: Arrival) -> None:
    device.happened.set()
    transfer = Transfer({"a": far(1.5), "n": far(2**40), "b": far([[1.0, 2.0], [3.0, 4.0]])})
    values = transfer.values()
    assert (
        values["a"].item() == 1.5 and values["n"].item() == 2**40 and values["b"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    )


def test_log_waits_for_no_device(tmp_path: Path, device: Arrival) -> None:
    rec = Recorder(tmp_path / "run", flush_interval_s=0.02, provenance=False)
    loss = far(2.0)
    for step in range(5):
        rec.log(step, loss=loss, grad_norm=far(1.0), lr=3e-4)
        loss = far(3.0)
    rec.log(5, lr=3e-4)  # a row of the host does not queue behind those of the device
    _wait_for(lambda: '"step":5' in _tail(tmp_path / "run"))
    assert '"step":4' not in _tail(tmp_path / "run") and not device.waited_by
    device.happened.set()
    _wait_for(lambda: '"step":4' in _tail(tmp_path / "run"))
    rec.close()
    assert threading.get_ident() not in device.waited_by[:5]
    run = open_run(tmp_path / "run")
    read = run.series("loss")
    assert read is not None
    np.testing.assert_array_equal(read.value, [2.0, 3.0, 3.0, 3.0, 3.0])


def test_a_nan_on_a_device_is_found_soon_after_it_arrives(tmp_path: Path, device: Arrival) -> None:
    with Recorder(tmp_path / "run", flush_interval_s=60, provenance=False) as rec:
        rec.batch(0, [[1, 2]])
        rec.log(0, loss=far(1.0))
        rec.log(1, loss=far(math.nan), lr=0.1)
        device.happened.set()
        started = time.monotonic()
        _wait_for(lambda: '"NaN"' in _tail(tmp_path / "run") and rec.something_moved_recently)
        assert time.monotonic() - started < 5
        _wait_for(lambda: '"incident"' in (tmp_path / "run" / "journal.jsonl").read_text())
    ids = open_run(tmp_path / "run").labels("token_ids")
    assert ids is not None and ids.at(0) == [[1, 2]]


def test_a_nan_of_the_host_does_not_wait_for_the_rest_of_its_row(tmp_path: Path, device: Arrival) -> None:
    with Recorder(tmp_path / "run", flush_interval_s=60, provenance=False) as rec:
        rec.log(0, loss=math.nan, grad_norm=far(4.0))
        assert '"loss":"NaN"' in _tail(tmp_path / "run") and "grad_norm" not in _tail(tmp_path / "run")
        device.happened.set()
    norm = open_run(tmp_path / "run").series("grad_norm")
    assert norm is not None and norm.at(0) == 4.0


def test_a_batch_on_a_device_has_the_hash_of_its_ids(tmp_path: Path, device: Arrival) -> None:
    from postmortem.record.hashing import batch_hash

    ids = [[1, 2, 3], [4, 5, 6]]
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.batch(0, far(ids), index=3)
        rec.log(0, loss=1.0)
        device.happened.set()
        rec.flush()
        rec.incident(0, "spike")
    run = open_run(tmp_path / "run")
    hashes, kept, index = run.labels("batch_hash"), run.labels("token_ids"), run.series("batch_index")
    assert hashes is not None and kept is not None and index is not None
    assert hashes.at(0) == batch_hash(torch.tensor(ids)) and kept.at(0) == ids and index.at(0) == 3


def test_run_json_names_the_device_once_it_is_known(tmp_path: Path, device: Arrival) -> None:
    import json

    device.happened.set()
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.log(0, loss=far(1.0))
    entry = json.loads((tmp_path / "run" / "run.json").read_text())["ranks"]["0"]
    assert entry["device"] == "cpu" and entry["attempt"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    ids = torch.arange(64, device="cuda").reshape(8, 8)
    with Recorder(tmp_path / "run", provenance=False) as rec:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(200):
                rec.batch(step, ids + step)
                rec.log(step, loss=torch.full((), float(step), device="cuda"), lr=0.1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    run = open_run(tmp_path / "run")
    loss, hashes = run.series("loss"), run.labels("batch_hash")
    assert loss is not None and hashes is not None and len(hashes) == 200
    np.testing.assert_array_equal(loss.value, np.arange(200))
