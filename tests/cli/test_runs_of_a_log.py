"""A log that contains several runs: which of them is drafted and compared."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import Call

STEPS = range(300)


def loss(step: int, *, spike: bool) -> float:
    """A loss that falls, with or without a spike at steps 200 to 219."""
    return round(1 + 3 / (1 + step / 40) + (step * 7 % 11) / 300 + (3 if spike and 200 <= step < 220 else 0), 5)


def rows(names: Sequence[str], spiked: str) -> str:
    """The rows of several runs below each other, as CSV; one of them has a spike."""
    lines = [f"{name},{step},{loss(step, spike=name == spiked)}\n" for name in names for step in STEPS]
    return "model,step,loss\n" + "".join(lines)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three runs in one log, the second with a spike."""
    path = tmp_path / "log.csv"
    path.write_text(rows(("small", "medium", "large"), "medium"))
    return path


def test_the_run_with_the_gravest_incident_is_drafted(call: Call, log: Path) -> None:
    code, out, err = call("draft", log, "--json")
    diagnosis = json.loads(out)
    assert (code, err, diagnosis["run_id"]) == (0, "", "medium") and diagnosis["incidents"][0]["onset_step"] == 200
    assert diagnosis["notes"][0] == (
        "log.csv: 3 runs in one log: this is medium, the one with the gravest incident, if any; --run NAME takes "
        "another: small, large"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_run_is_asked_for_by_name(call: Call, log: Path, packed: bool, tmp_path: Path) -> None:
    if packed:
        log.with_suffix(".csv.gz").write_bytes(gzip.compress(log.read_bytes()))
        log = log.with_suffix(".csv.gz")
    code, out, _ = call("draft", log, "--run", "large", "--json")
    diagnosis = json.loads(out)
    assert (code, diagnosis["run_id"], diagnosis["verdict"], diagnosis["notes"]) == (0, "large", "no_incident", [])


def test_a_name_that_no_run_has(call: Call, log: Path) -> None:
    code, out, err = call("draft", log, "--run", "huge")
    assert (code, out) == (2, "")
    assert err == "postmortem: --run huge: log.csv has no run of this name. It has: small, medium, large\n"


def test_a_log_of_one_run(call: Call, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("step,loss\n" + "".join(f"{s},{loss(s, spike=False)}\n" for s in STEPS))
    assert call("draft", "one.csv", "--run", "one", "--json")[0] == 0
    code, _, err = call("draft", "one.csv", "--run", "two", "--json")
    assert (code, err) == (2, "postmortem: --run two: one.csv contains only one run, one\n")


def test_several_logs_are_one_run(call: Call, tmp_path: Path) -> None:
    lines = [f"{s},{loss(s, spike=True)}\n" for s in STEPS]
    for name, rows_of in (("whole", lines), ("old,1", lines[:150]), ("new", lines[150:])):
        (tmp_path / f"{name}.csv").write_text("step,loss\n" + "".join(rows_of))
    whole = json.loads(call("draft", "whole.csv", "--json")[1])
    code, out, err = call("draft", "old,1.csv", "new.csv", "--json")
    assert (code, err) == (0, "") and json.loads(out)["incidents"][0]["onset_step"] == 200
    assert json.loads(out)["incidents"][0]["peak_step"] == whole["incidents"][0]["peak_step"]
    (tmp_path / "old,1.csv").rename(tmp_path / "old.csv")
    assert call("diff", "whole.csv", "old.csv,new.csv", "--exit-code")[0] == 0
    assert call("draft", "old.csv,new.csv", "--lessons", "l.md")[0] == 0
    assert (tmp_path / "old+1.postmortem" / "report.md").is_file()


def test_runs_of_one_log_are_compared(call: Call, log: Path, tmp_path: Path) -> None:
    code, out, _ = call("diff", log, "--run", "small", "--run", "large", "--exit-code")
    assert code == 0 and [line.split()[1] for line in out.splitlines()[:2]] == ["small", "large"]
    assert "medium" in call("diff", log)[1]
    (tmp_path / "one.csv").write_text(rows(["small"], ""))
    assert call("diff", "one.csv", log, "--run", "small", "--exit-code")[0] == 0
    code, _, err = call("diff", "one.csv", log)
    assert code == 3 and "log.csv: 3 runs in one log, by column model: small, medium, large. Say which" in err
    code, _, err = call("diff", "one.csv", "one.csv", "--run", "small")
    assert (code, err) == (2, "postmortem: --run small: no log is left that contains several runs\n")
    assert call("diff", "one.csv")[0] == 2


def test_a_map_for_one_of_the_runs(call: Call, tmp_path: Path) -> None:
    for name, column in (("a", "loss"), ("b", "Zielwert")):
        (tmp_path / f"{name}.csv").write_text(
            f"step,{column}\n" + "".join(f"{s},{loss(s, spike=False)}\n" for s in STEPS)
        )
    assert call("diff", "a.csv", "b.csv", "--map", "2:loss=Zielwert", "--exit-code")[0] == 0
    assert call("diff", "a.csv", "b.csv", "--map", "step=step,2:loss=Zielwert", "--exit-code")[0] == 0
    code, _, err = call("diff", "a.csv", "b.csv", "--map", "loss=Zielwert")
    assert code == 2 and "a.csv has no column Zielwert" in err
    code, _, err = call("diff", "a.csv", "b.csv", "--map", "3:loss=Zielwert")
    assert (code, err) == (2, "postmortem: --map 3:loss=Zielwert: there is no log number 3, but 2\n")


def test_a_log_is_converted(call: Call, log: Path, tmp_path: Path) -> None:
    code, out, err = call("convert", log, "runs/new", "--run", "medium")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "read    csv: 300 rows, steps 0–299, 1 known column, and 1 other",
        "run     runs/new",
        "next    postmortem draft runs/new",
    ]
    diagnosis = json.loads(call("draft", "runs/new", "--json")[1])
    assert diagnosis["run_id"] == "medium" and diagnosis["incidents"][0]["onset_step"] == 200
    code, _, err = call("convert", log, "runs/new", "--run", "medium")
    assert (code, err) == (2, "postmortem: runs/new: exists already. Choose a new folder.\n")
