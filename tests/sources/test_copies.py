"""Gzipped logs, and a log on the standard input: read from a bounded temporary copy."""

from __future__ import annotations

import gc
import gzip
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from postmortem import pipeline
from postmortem.errors import CannotWrite, UnreadableInput, UsageError
from postmortem.sources import _copies, open_run

ROWS = [{"step": i, "loss": 2 - i / 400 + (i % 7) / 50 + 3 * (i == 150), "lr": 1e-3} for i in range(300)]
CSV = "step,loss,lr\n" + "".join(f"{row['step']},{row['loss']},{row['lr']}\n" for row in ROWS)
FORMATS = {
    "log.csv": CSV.encode(),
    "log.tsv": CSV.replace(",", "\t").encode(),
    "log.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "trainer_state.json": json.dumps({"log_history": ROWS}).encode(),
}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file.getvalue()


@pytest.mark.parametrize("name", [*FORMATS, "log.parquet"])
def test_gzip_of_any_log_gives_the_same_diagnosis(name: str, tmp_path: Path) -> None:
    data = FORMATS.get(name) or _parquet()
    (tmp_path / name).write_bytes(data)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    plain, packed = (open_run(tmp_path / end) for end in (name, f"{name}.gz"))
    assert packed.path == tmp_path / f"{name}.gz"
    assert pipeline.diagnose(packed) == pipeline.diagnose(plain)
    assert pipeline.diagnose(plain).incidents


def test_gzip_is_known_by_its_content_and_may_have_members(tmp_path: Path) -> None:
    half = CSV.index("150,")
    data = gzip.compress(CSV[:half].encode()) + gzip.compress(CSV[half:].encode()) + b"\0" * 512
    (tmp_path / "log.csv").write_bytes(data)
    run = open_run(tmp_path / "log.csv")
    assert run.row_steps.size == len(ROWS) and not run.notes


def test_what_could_be_unpacked_of_a_cut_stream_is_read(tmp_path: Path) -> None:
    data = gzip.compress(CSV.encode())
    (tmp_path / "log.csv.gz").write_bytes(data[: len(data) // 2])
    run = open_run(tmp_path / "log.csv.gz")
    assert 50 < run.row_steps.size < len(ROWS)
    assert run.notes[0] == "log.csv.gz: its gzip stream is cut short: what could be unpacked is read"


def test_what_follows_gzip_is_noted(tmp_path: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(CSV.encode()) + b"more")
    assert open_run(tmp_path / "log.csv.gz").notes == ("log.csv.gz: what follows the gzipped data was ignored",)


def test_a_gzipped_log_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.parquet.gz").write_bytes(gzip.compress(_parquet()))
    (folder / "batches.csv.gz").write_bytes(gzip.compress(b"step,batch_index\n1,7\n"))
    run = open_run(folder)
    gc.collect()  # a column is read when it is first used
    loss, index = run.series("loss"), run.series("batch_index")
    assert loss is not None and len(loss) == len(ROWS) and index is not None and index.value[0] == 7


def test_a_copy_lives_as_long_as_its_run(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "log.parquet.gz").write_bytes(gzip.compress(_parquet()))
    run = open_run(tmp_path / "log.parquet.gz")
    run = run.with_steps(np.arange(len(ROWS)))
    gc.collect()
    assert len(list(temporary.iterdir())) == 1 and run.series("loss") is not None
    del run
    gc.collect()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(CSV.encode())[:400] + b"x" * 400, "is damaged gzip ("),
        (gzip.compress(b""), "nothing can be unpacked from it."),
        (gzip.compress(b"\n" * 2**25), "more than 24 MiB when it is unpacked. Unpack it first: gunzip -k FILE"),
        (gzip.compress(b"step,loss\n"), "has a header and no rows."),
    ],
)
def test_refusals(data: bytes, message: str, tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(data)
    with pytest.raises(UnreadableInput) as caught:
        open_run(tmp_path / "log.csv.gz")
    assert str(caught.value).startswith(f"{tmp_path / 'log.csv.gz'}: {message}")
    del caught
    gc.collect()
    assert not list(temporary.iterdir())


def test_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(CannotWrite, match=r"missing: no room for a temporary copy of the log .*set TMPDIR"):
        open_run(tmp_path / "log.csv.gz")


class _Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("packed", [False, True])
def test_the_standard_input(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = CSV.encode()
    monkeypatch.setattr(sys, "stdin", _Stdin(gzip.compress(data) if packed else data))
    run = open_run("-", source="csv")
    assert (run.id, run.path, run.row_steps.size) == ("standard input", Path("standard-input"), len(ROWS))
    assert run.origin("loss") == "standard input, column loss"


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (_Stdin(b"", terminal=True), "- reads a log from the standard input, which is a terminal. Example: draft - <"),
        (_Stdin(b""), "standard input: it is empty (0 bytes)."),
        (_Stdin(b"\0\1\2"), "standard input"),
        (None, "- reads a log from the standard input, which is closed."),
    ],
)
def test_no_log_on_the_standard_input(stdin: _Stdin | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises((UnreadableInput, UsageError)) as caught:
        open_run("-")
    assert str(caught.value).startswith(message)


def test_the_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(b"x" * 2000))
    monkeypatch.setattr(_copies, "MOST_BYTES", 1000)
    with pytest.raises(UnreadableInput, match=r"standard input: more than 0 MiB\. Save it in a file"):
        open_run("-")
