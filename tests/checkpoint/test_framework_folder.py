"""Folders with a file for each part of the state, and safetensors files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from postmortem.checkpoint.inspection import inspect
from tests.checkpoint.makers import dcp, state


def safetensors(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(first: int, last: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_what_is_in_a_folder(tmp_path: Path) -> None:
    values = state()
    torch.save(values["model"], tmp_path / "pytorch_model.bin")
    torch.save(values["optimizer"], tmp_path / "optimizer.pt")
    torch.save(values["lr_scheduler"], tmp_path / "scheduler.pt")
    torch.save({"cpu": torch.get_rng_state()}, tmp_path / "rng_state.pth")
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04cos\nsystem\n.")  # settings, which nobody reads
    (tmp_path / "trainer_state.json").write_text("{}")
    found = inspect(tmp_path)
    assert found.kind == "framework" and found.sound and found.optimizer
    assert found.contents == ("model", "moments", "schedule", "rng") and found.nonfinite == {}


def test_sharded_weights_in_a_folder_of_their_own(tmp_path: Path) -> None:
    torch.save(state()["optimizer"], tmp_path / "optimizer.pt")
    values = state()["model"]
    values["0.weight"][0, 0] = float("nan")
    dcp(tmp_path / "pytorch_model_fsdp_0", values)
    found = inspect(tmp_path)
    assert found.sound and found.nonfinite == {"pytorch_model_fsdp_0.0.weight": 1}


def test_state_that_is_not_read_is_not_passed_over(tmp_path: Path) -> None:
    torch.save(state()["optimizer"], tmp_path / "optimizer.pt")
    (tmp_path / "global_step10").mkdir()
    torch.save(state()["model"], tmp_path / "global_step10" / "mp_rank_00_model_states.pt")
    assert inspect(tmp_path).problems == ("global_step10/mp_rank_00_model_states.pt: its format is not read",)


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "optimizer.pt").write_bytes(b"\x80\x04cos\nsystem\nX" + f"touch {canary}".encode() + b"\x85R.")
    assert not inspect(tmp_path).sound and not canary.exists()


@pytest.mark.parametrize(
    ("dtype", "data", "count"),
    [
        ("F32", b"\0\0\xc0\x7f\0\0\x80\x3f", 1),
        ("F16", b"\0\x7c\0\x7e", 2),
        ("BF16", b"\x80\x7f\x80\x3f", 1),
        ("F8_E4M3", b"\x7f\x00", 1),
        ("I32", b"\xff" * 8, 0),
        ("F64", b"\0\0\0\0\0\0\xf0\xff" + b"\0\0\0\0\0\0\xf0\x3f", 1),
    ],
)
def test_every_type_of_number_is_counted(dtype: str, data: bytes, count: int, tmp_path: Path) -> None:
    file = safetensors(tmp_path / "model.safetensors", {"w": entry(0, len(data), dtype)}, data)
    found = inspect(file)
    assert found.sound and sum((found.nonfinite or {}).values()) == count


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"w": entry(0, 8)}, b"\0" * 7, "reaches beyond its bytes"),
        ({"w": entry(0, 8, shape=(3,))}, b"\0" * 8, "reaches beyond its bytes"),
        ({"w": entry(8, 0)}, b"\0" * 8, "reaches beyond its bytes"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12, "overlaps another tensor"),
        ({"w": entry(0, 8, "F31")}, b"\0" * 8, "in an unknown way"),
        ({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\0" * 8, "in an unknown way"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}, b"\0" * 8, "in an unknown way"),
        ({"w": 3}, b"", "in an unknown way"),
        ([1], b"", "no JSON object"),
        (b"{ x", b"", "no JSON"),
        (b"\xff\xfe\xfd", b"", "no JSON"),
        (b"[" * 100_000, b"", "no JSON"),
    ],
)
def test_false_claims_are_named(header: Any, data: bytes, said: str, tmp_path: Path) -> None:
    found = inspect(safetensors(tmp_path / "model.safetensors", header, data))
    assert not found.sound and said in found.problems[0]


@pytest.mark.parametrize("size", [0, 7, 8, 2**40])
def test_a_header_longer_than_the_file(size: int, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((2**50).to_bytes(8, "little")[: min(size, 8)] + b"{}" * (size == 2**40))
    assert "longer than the file" in inspect(file).problems[0]
