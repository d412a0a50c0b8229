"""However many stages a command has: each run is read once, searched once and looked at by the panels once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from postmortem import pipeline
from postmortem.assess import detection
from postmortem.run import Run
from tests.cli.conftest import Call
from tests.samples import copy_of


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a run was "read", "searched" for incidents, and "looked" at by the panels, in this process."""
    count: Counter[str] = Counter()

    def watch(owner: Any, name: str, what: str, run_of: Any) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            count[f"{what} {Path(run_of(*args)).name}"] += 1
            return result

        monkeypatch.setattr(owner, name, watched)

    watch(Run, "__init__", "read", lambda run: run.path)
    watch(detection, "_search", "searched", lambda run, _: run.path)
    watch(pipeline, "_weigh", "looked", lambda case: case.run.path)
    return count


@pytest.mark.heavy
def test_replay(call: Call, counted: Counter[str], tmp_path: Path) -> None:
    run = copy_of("19-spike-001", tmp_path / "19-spike-001")
    code, out, err = call("replay", run, "--until", 340)
    assert code == 0, err
    assert "outcome loss spike at step 312: cured" in out and "recovered" in out
    new = "step-300-skip-312-313"
    assert counted == dict.fromkeys(
        ("read 19-spike-001", "searched 19-spike-001", "looked 19-spike-001", f"read {new}", f"searched {new}"), 1
    )


@pytest.mark.processes
def test_prove(call: Call, counted: Counter[str], tmp_path: Path) -> None:
    """The replays are driven in other processes; here each is read and searched to be judged, and once more by the
    draft that checks the proof. Only R0, to which all are compared, is kept."""
    run = copy_of("19-spike-001", tmp_path / "19-spike-001")
    code, out, err = call("prove", run)
    assert code == 0, err
    assert "verdict confirmed: long_tail_tokens" in out
    assert counted.pop("looked 19-spike-001") == 1
    once = {f"{what} {name}" for what in ("read", "searched") for name in ("R0", "19-spike-001")}
    assert {what for what, times in counted.items() if times == 1} == once
    assert {times for what, times in counted.items() if what not in once} == {2}


def test_draft(call: Call, counted: Counter[str], tmp_path: Path) -> None:
    run = copy_of("19-spike-001", tmp_path / "19-spike-001")
    assert call("draft", run, "--lessons", tmp_path / "lessons.md")[0] == 0
    assert counted == {"read 19-spike-001": 1, "searched 19-spike-001": 1, "looked 19-spike-001": 1}


def test_a_diff_of_several_searches_each_run_once(call: Call, counted: Counter[str]) -> None:
    from tests.samples import sample

    names = ("19-clean-001", "19-spike-001", "20-run-002")
    assert call("diff", *map(sample, names))[0] == 0
    assert counted == {f"{what} {name}": 1 for what in ("read", "searched") for name in names}
