"""Several logs as one run: pieces of one file, and logs that go back to steps of earlier ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem import pipeline
from postmortem.errors import UnreadableInput, UsageError
from postmortem.record.writer import RunWriter
from postmortem.run import Run
from postmortem.sources import open_run
from tests.sources.helpers import losses, write

Row = dict[str, float]


def _rows(first: int, last: int, shift: float = 0.0) -> list[Row]:
    return [
        {"step": i, "loss": 2 - i / 400 + (i % 7) / 50 + 3 * (150 <= i < 160) + shift, "grad_norm": 1 + i % 5 / 9}
        for i in range(first, last)
    ]


def _csv(rows: Sequence[Row], *, header: bool = True) -> str:
    lines = [",".join(map(repr, row.values())) for row in rows]
    return "\n".join([*([",".join(rows[0])] if header else []), *lines]) + "\n"


def _jsonl(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _diagnosis(run: Run) -> str:
    """The diagnosis without the names of the files."""
    text = pipeline.diagnose(run).to_json()
    for table in {log.table.display_name for log in run.logs}:
        text = text.replace(table, "LOG")
    record = json.loads(text.replace(f'"{run.id}"', '"ID"'))
    record["notes"] = [note for note in record["notes"] if not note.startswith("one run of ")]
    return json.dumps(record)


WHOLE = [*_rows(0, 260), *_rows(200, 400, 0.25)]  # with a resume


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "json", "header"])
@given(cuts=st.lists(st.integers(1, len(WHOLE) - 1), min_size=1, max_size=3, unique=True))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_pieces_of_a_log_are_the_log(tmp_path: Path, ending: str, cuts: list[int]) -> None:
    def log(name: str, rows: Sequence[Row]) -> Path:
        path = tmp_path / f"{name}.{'csv' if ending == 'header' else ending}"
        if ending == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif ending in ("csv", "header"):
            path.write_text(_csv(rows, header=ending == "csv" or rows[0] is WHOLE[0]))
        else:
            path.write_text(_jsonl(rows) if ending == "jsonl" else json.dumps({"log_history": rows}))
        return path

    ends = [0, *sorted(cuts), len(WHOLE)]
    pieces = [log(f"piece{k}", WHOLE[a:b]) for k, (a, b) in enumerate(pairwise(ends))]
    whole, stitched = open_run(log("whole", WHOLE)), open_run(pieces)
    assert [s.first_step for s in stitched.segments] == [0, 200]
    assert losses(stitched) == losses(whole)
    assert _diagnosis(stitched) == _diagnosis(whole)


def test_a_log_that_goes_back_discards_what_an_earlier_one_has(tmp_path: Path) -> None:
    same = _rows(0, 300)
    old = write(tmp_path, "train.log.1.csv", _csv(same))
    new = write(tmp_path, "train.log.csv.gz", gzip.compress(_csv(_rows(280, 400, 0.5)).encode()))
    run = open_run([old, new])
    assert [(s.attempt, s.first_step, s.kept_until, s.discarded) for s in run.segments] == [
        (0, 0, 280, True),
        (1, 280, 400, False),
    ]
    assert run.id == "train.log.1+1" and run.path == tmp_path / "train.log.1+1"
    assert run.notes[0] == "one run of 2 logs, in this order: train.log.1.csv, train.log.csv.gz"
    again = write(tmp_path, "again.csv", _csv(same[250:]))
    assert len(open_run([old, again]).segments) == 2  # the same values, but it is another log


def test_names_that_differ_are_one_column(tmp_path: Path) -> None:
    old = write(tmp_path, "old.csv", _csv(_rows(0, 100)))
    rows = [{"global_step": r["step"], "train/loss": r["loss"], "lr": 1e-3} for r in _rows(100, 200)]
    run = open_run([old, write(tmp_path, "new.jsonl", _jsonl(rows))])
    assert losses(run) == {int(r["step"]): r["loss"] for r in _rows(0, 200)}
    rate = run.series("lr")
    assert rate is not None and rate.step.tolist() == list(range(100, 200))


@pytest.mark.parametrize(("first", "attempts"), [(150, [0, 1, 2]), (200, [0, 1])])
def test_attempts_of_run_directories_go_on(tmp_path: Path, first: int, attempts: list[int]) -> None:
    for attempt, name, start, end in ((0, "a", 0, 120), (1, "a", 100, 200), (0, "b", first, 300)):
        with RunWriter(tmp_path / name, {}, attempt=attempt) as run:
            run.event("run_start" if not attempt else "resume", start, from_step=start)
            for row in _rows(start, end, attempt / 9):
                run.log(int(row["step"]), {"loss": row["loss"]})
                run.batch(int(row["step"]), {"batch_index": row["step"]})
    run = open_run([tmp_path / "a", tmp_path / "b"])
    assert [s.attempt for s in run.segments] == attempts
    assert run.steps().tolist() == list(range(300)) and len(run.journal) == 3 and run.root is None
    index = run.series("batch_index")
    assert index is not None and index.value.tolist() == list(range(300))


def test_one_map_is_for_all(tmp_path: Path) -> None:
    pieces = [write(tmp_path, f"{k}.csv", f"n,value\n{k}1,2\n{k}2,3\n") for k in (1, 2)]
    assert losses(open_run(pieces, {"step": "n", "loss": "value"})) == {11: 2, 12: 3, 21: 2, 22: 3}
    with pytest.raises(UsageError, match="has no column other"):
        open_run(pieces, {"step": "n", "loss": "other"})


def test_refusals(tmp_path: Path) -> None:
    old = write(tmp_path, "old.csv", _csv(_rows(0, 100)))
    with pytest.raises(UnreadableInput, match=r"missing\.csv: no such file"):
        open_run([old, tmp_path / "missing.csv"])
    with pytest.raises(UsageError, match="no log"):
        open_run([])
