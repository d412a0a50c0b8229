"""Listing many checkpoints: each costs little, and the answers are those of looking at one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from postmortem.checkpoint import dcp_tables, layout
from postmortem.checkpoint.inspection import inspect
from tests.checkpoint.makers import dcp, state


def test_a_list_of_checkpoints_reads_the_tables_of_one_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no tensor: opening each archive was nine tenths of the time."""
    saved = dcp(tmp_path / "step-00000300.dcp", state())
    whole = inspect(saved)
    dcp_tables._small_tables.cache_clear()
    loaded: list[str] = []
    load = dcp_tables.safe_load

    def counted(data: bytes, *rest: Any, file: str, **more: Any) -> Any:
        loaded.append(file)
        return load(data, *rest, file=file, **more)

    for module in (dcp_tables, layout):
        monkeypatch.setattr(module, "safe_load", counted)
    for _ in range(20):
        listed = inspect(saved, deep=False, pieces=False)
        assert (listed.contents, listed.tensors, listed.sound) == (whole.contents, whole.tensors, True)
    assert loaded.count(".metadata") == 1
    assert not any("model." in name or "exp_avg" in name for name in loaded), "only what is no tensor is opened"
    (file,) = saved.glob("*.distcp")
    file.write_bytes(file.read_bytes()[:-200])
    assert "cut short" in " ".join(inspect(saved, deep=False, pieces=False).problems)
