"""The same log with another counter is the same run; one other value in one row, and it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from postmortem.diff import diff_runs
from postmortem.diff.model import RunsDiff
from postmortem.sources import open_run
from tests.makers import healthy, write_run

N = 200
COUNTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "from one": (lambda t: t + 1, "step in b = step in a + 1"),
    "micro-steps": (lambda t: 4 * t + 3, "step in b = 4 × step in a + 3"),
    "tokens": (lambda t: (t + 1) * 524_288, "step in b = 524288 × step in a + 524288"),
    "a part": (lambda t: 5 * t // 5 + 1000, "step in b = step in a + 1000"),
    "growing": (lambda t: t * (t + 3), "under another counter; it is read"),
}


def rows(steps: np.ndarray, **other: np.ndarray) -> list[dict[str, object]]:
    """Rows of a log whose learning rate is logged in every tenth only, and whose clock is that of the writer."""
    rng = np.random.default_rng(5)
    columns = {"loss": 2 + rng.standard_normal(N).round(4), "grad_norm": rng.random(N), **other}
    listed: list[dict[str, object]] = [
        {"time": 1e9 + float(steps[0]) + i, **{name: float(values[i]) for name, values in columns.items()}}
        for i in range(N)
    ]
    for i in range(0, N, 10):
        listed[i]["lr"] = 1e-3 / (i + 1)
    return listed


def jsonl(path: Path, name: str, steps: np.ndarray, log: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps({name: int(step), **row}) + "\n" for step, row in zip(steps, log, strict=True)))
    return path


def compared(a: Path, b: Path) -> RunsDiff:
    return diff_runs(open_run(a), open_run(b))


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("name", ["step", "iteration"])
def test_the_same_rows_are_identical(counter: str, name: str, tmp_path: Path) -> None:
    steps = np.arange(N)
    other, text = COUNTERS[counter]
    a = jsonl(tmp_path / "a.jsonl", "step", steps, rows(steps))
    b = jsonl(tmp_path / "b.jsonl", name, other(steps), rows(other(steps)))
    d = compared(a, b)
    assert (d.verdict, d.divergence) == ("identical", None) and text in d.top_lines[0], d.top_lines
    assert f"{N} common steps" in d.reason
    back = compared(b, a)
    assert back.verdict == "identical" and "another counter" in back.top_lines[0]


def test_every_tenth_iteration(tmp_path: Path) -> None:
    steps = np.arange(N)
    a = jsonl(tmp_path / "a.jsonl", "iteration", 10 * steps, rows(steps))
    b = jsonl(tmp_path / "b.jsonl", "step", steps, rows(steps))
    d = compared(a, b)
    assert d.verdict == "identical" and "(step in a = 10 × step in b)" in d.top_lines[0]


@pytest.mark.parametrize("column", ["loss", "grad_norm", "lr"])
@pytest.mark.parametrize("row", [0, 100, 190])
def test_one_other_value_is_another_run(column: str, row: int, tmp_path: Path) -> None:
    steps = np.arange(N)
    changed = rows(steps)
    changed[row][column] = float(np.nextafter(float(str(changed[row][column])), 9.0))
    a = jsonl(tmp_path / "a.jsonl", "step", steps, rows(steps))
    d = compared(a, jsonl(tmp_path / "b.jsonl", "step", 4 * steps + 1, changed))
    assert d.verdict != "identical" and not any("another counter" in line for line in d.top_lines)


def test_a_value_that_only_one_logged_is_a_difference(tmp_path: Path) -> None:
    steps = np.arange(N)
    changed = rows(steps)
    del changed[50]["lr"]
    a = jsonl(tmp_path / "a.jsonl", "step", steps, rows(steps))
    assert compared(a, jsonl(tmp_path / "b.jsonl", "step", steps + 1, changed)).verdict != "identical"


@pytest.mark.parametrize("loss", [np.full(N, 0.5), np.full(N, np.nan)])
def test_a_loss_that_never_moves_tells_no_rows_apart(loss: np.ndarray, tmp_path: Path) -> None:
    steps = np.arange(N)
    a = jsonl(tmp_path / "a.jsonl", "step", steps, rows(steps, loss=loss))
    b = jsonl(tmp_path / "b.jsonl", "step", steps + N, rows(steps, loss=loss))
    assert compared(a, b).verdict == "different"


def test_a_recorded_run_keeps_its_steps(tmp_path: Path) -> None:
    """The one with a journal is not moved, whichever it is; two with journals are compared as they are."""
    columns = {name: healthy(N)[name] for name in ("loss", "lr")}
    recorded = write_run(tmp_path / "recorded", columns)
    text = "".join(f"{t + 1},{float(columns['loss'][t])},{float(columns['lr'][t])}\n" for t in range(N))
    (tmp_path / "export.csv").write_text("step,loss,lr\n" + text)
    for pair in ((recorded, tmp_path / "export.csv"), (tmp_path / "export.csv", recorded)):
        d = compared(*pair)
        assert d.verdict == "identical" and (d.a.first_step, d.b.first_step) == (0, 0), d.top_lines
    later = write_run(tmp_path / "later", columns, steps=np.arange(N) + 1)
    assert compared(recorded, later).verdict != "identical"
