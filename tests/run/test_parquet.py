"""Parquet files that are damaged, hostile, wide or long: one message each, in little time and memory."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.errors import UnreadableInput
from postmortem.run.footer import BYTE_ARRAY, INT64, ColumnChunk, Leaf, read_footer
from postmortem.run.pages import PageSizes, check_pages
from postmortem.run.parquet import _CheckedBytes, parquet_part
from postmortem.run.table import Part, Table
from postmortem.run.thrift import CompactReader, Damaged
from postmortem.run.values import LabelCells, Numbers
from tests.samples import ROOT

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

CASES = ROOT.parent / "shared" / "attack_cases"
ROWS = 300
COLUMNS: dict[str, list[Any]] = {
    "step": list(range(ROWS)),
    "loss": [None if i % 7 == 0 else i / 8 for i in range(ROWS)],
    "skipped": [i % 3 == 0 for i in range(ROWS)],
    "source": [f"shard-{i % 9}" if i % 13 else None for i in range(ROWS)],
    "batch_hash": [f"{i * 7919**4:032x}" for i in range(ROWS)],
    "sample_ids": [list(range(i % 9)) if i % 17 else None for i in range(ROWS)],
    "token_ids": [[[1, 2, i], [], None] if i % 5 else [] for i in range(ROWS)],
    "sample_text": [[f"word {j % 4}" for j in range(i % 5)] for i in range(ROWS)],
    "day": [datetime.date(2026, 1, 1 + i % 28) for i in range(ROWS)],
    "a.b": [float(i) for i in range(ROWS)],
}
DELTAS = {"step": "DELTA_BINARY_PACKED", "source": "DELTA_LENGTH_BYTE_ARRAY", "batch_hash": "DELTA_BYTE_ARRAY"}


def _part(path: Path) -> Part:
    return parquet_part(path, path.name, frozenset())


@pytest.mark.processes
@pytest.mark.skipif(not CASES.is_dir(), reason="the attack cases lie beside the repository")
@pytest.mark.parametrize(
    "case", ["05-parquet-abort/m", "05-parquet-abort/m2", "09-parquet-schema-utf8/m", "15-parquet-length/m"]
)
def test_attack_cases_end_in_one_message(case: str, tmp_path: Path) -> None:
    path = tmp_path / "stranger.parquet"
    path.write_bytes((CASES / f"{case}.parquet").read_bytes())
    command = (sys.executable, "-m", "postmortem", "draft", str(path), "--json")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "stranger.parquet" in done.stderr, done


FLIP_EVERY_BYTE = """
import sys, warnings
from pathlib import Path
from postmortem.errors import UnreadableInput
from postmortem.run.parquet import _CheckedBytes, parquet_part
path = Path(sys.argv[1])
sound = path.read_bytes()
first = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
refused = 0
for position in range(first if sys.argv[2] == "footer" else 4, len(sound) if sys.argv[2] == "footer" else first):
    for flipped in (0x02, 0x10, 0x81):
        damaged = bytearray(sound)
        damaged[position] ^= flipped
        path.write_bytes(damaged)
        try:
            part = parquet_part(path, "x", frozenset())
            for name in part.names:
                part.bounds(name), part.load(name)
        except UnreadableInput as error:
            assert "\\n" not in str(error)
            refused += 1
print(refused)
"""


@pytest.mark.processes
@pytest.mark.parametrize("damaged", ["footer", "pages"])
def test_no_flipped_byte_ends_the_process(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"step": [0, 1, 2, 3], "loss": [2.0, None, 1.5, 1.0], "source": ["a", "b", "a", None]})
    pq.write_table(table, path, compression="none", store_schema=False)
    command = (sys.executable, "-c", FLIP_EVERY_BYTE, str(path), damaged)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_sound_files_read_as_pyarrow_reads_them(tmp_path: Path) -> None:
    table = pa.table({name: pa.array(values) for name, values in COLUMNS.items()})
    small_pages = {"data_page_size": 256, "row_group_size": 77, "dictionary_pagesize_limit": 128}
    for kind in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}, small_pages):
        pq.write_table(table, tmp_path / "x.parquet", **kind)
        _compare(tmp_path / "x.parquet")
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=False, column_encoding=DELTAS)
    _compare(tmp_path / "x.parquet")


def _compare(path: Path) -> None:
    part = _part(path)
    assert part.names == tuple(COLUMNS) and part.rows == ROWS
    for name, values in COLUMNS.items():
        cells = part.load(name)
        if isinstance(cells, Numbers):
            assert cells.value.tolist() == [0.0 if v is None else v for v in values] or name == "loss"
            logged = np.ones(ROWS, np.bool_) if cells.logged is None else cells.logged
            assert [v if ok else None for v, ok in zip(cells.value, logged, strict=True)] == values
        else:
            assert cells.value.tolist() == values


def test_statistics_need_no_rows(tmp_path: Path) -> None:
    nan = float("nan")
    columns = {
        "loss": [3.0, None, 1.0, 2.0],
        "empty": pa.array([None] * 4, pa.float64()),
        "text": list("abcd"),
        "wild": [nan] * 4,
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=2)
    part = _part(tmp_path / "x.parquet")
    bounds = {name: part.bounds(name) for name in part.names}
    assert bounds["loss"] is not None and (bounds["loss"].nulls, bounds["loss"].low, bounds["loss"].high) == (1, 1, 3)
    assert bounds["empty"] is not None and bounds["empty"].nulls == 4
    assert bounds["text"] is not None and bounds["text"].low is None
    assert bounds["wild"] is None or bounds["wild"].low is None


def test_a_claim_of_too_many_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"step": pa.nulls(30_000_000)}), tmp_path / "x.parquet")
    with pytest.raises(UnreadableInput, match=r"x\.parquet: .*30,000,000 values in .* that is read"):
        _part(tmp_path / "x.parquet")


READ_SOURCE = """
import sys
from pathlib import Path
from postmortem.errors import UnreadableInput
from postmortem.run.parquet import _CheckedBytes, parquet_part
try:
    parquet_part(Path(sys.argv[1]), "x", frozenset()).load("source")
except UnreadableInput as error:
    print(error)
status = Path("/proc/self/status").read_text()  # other counters begin with what the parent process had
print(status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in /proc")
@pytest.mark.parametrize("kind", ["dictionary", "list", "struct", "prefixes"])
def test_text_that_unfolds_takes_no_memory(kind: str, tmp_path: Path) -> None:
    """10 GB of text in a file of some 100 kB."""
    rows = 20_000
    listed = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 500_000]))
    ends = pa.array(np.arange(rows + 1, dtype=np.int32))
    shapes: dict[str, Any] = {
        "dictionary": lambda: listed,
        "list": lambda: pa.ListArray.from_arrays(ends, listed),
        "struct": lambda: pa.StructArray.from_arrays([listed], ["text"]),
        "prefixes": lambda: pa.array(["x" * i for i in range(rows)]),
    }
    table = pa.table({"step": np.arange(rows), "loss": np.ones(rows), "source": shapes[kind]()})
    options: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"source": "DELTA_BYTE_ARRAY"}}
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, store_schema=False, **(options if kind == "prefixes" else {}))
    command = (sys.executable, "-c", READ_SOURCE, str(path))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    *refusal, peak = done.stdout.splitlines()
    assert int(peak) < 700_000, f"{peak} kB"
    assert bool(refusal) == (kind in ("struct", "prefixes")), refusal


def _page(kind: int, unpacked: int, packed: int, values: int) -> bytes:
    """A page of so many zero bytes with its header; `kind` 0 is data, 2 a dictionary."""
    about = bytes((0x15, *_zigzag(values), 0x15, 0, 0x15, 0, 0x15, 0, 0))
    field = 0x2C if kind == 0 else 0x4C
    return bytes((0x15, kind * 2, 0x15, *_zigzag(unpacked), 0x15, *_zigzag(packed), field, *about, 0)) + bytes(packed)


def _zigzag(number: int) -> bytes:
    value, out = number << 1, bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def test_pages_are_checked_before_they_are_decoded() -> None:
    def check(data: bytes, leaf: int, values: int = 100) -> PageSizes:
        sizes = PageSizes()
        width = 8 if leaf == INT64 else 0
        chunk = ColumnChunk(4, len(data), values, listed=False, plain=True, nulls=0, low=b"", high=b"")
        check_pages(data, chunk, Leaf(("x",), leaf, width, repeated=False, fielded=False, numeric=True), sizes, 1000)
        return sizes

    assert check(_page(0, 800, 40, 60) + _page(0, 320, 40, 40), INT64).text == 0
    assert check(_page(2, 900, 40, 3) + _page(0, 50, 40, 100), BYTE_ARRAY).longest_listed == 900
    for data, why in {
        _page(0, 800, 40, 60): "60 values, its footer says 100",
        _page(0, 800, 40, 101): "101 values, its footer says 100",
        _page(0, 800, 40, 100)[:-1]: "larger than its column",
        _page(0, 2**31 - 1, 40, 100): "100 values take 2,147,483,647 bytes",
        _page(2, 10, 10, 1_000_000): "a dictionary of 1,000,000 values in 10 bytes",
        _page(0, 0, 0, 0) * 200: "more pages than values",
        b"\xff" * 50: "unknown kind",
    }.items():
        with pytest.raises(Damaged, match=why):
            check(data, INT64)
    with pytest.raises(Damaged, match="bytes of text"):
        check(_page(0, 2**31 - 1, 40, 100), BYTE_ARRAY)


@pytest.mark.parametrize(
    "data",
    [
        b"\x19\xfc\xff\xff\xff\xff\x0f",
        b"\x1c" * 100,
        b"\x19\x19" * 100,
        b"\x18\x7f",
        b"\x1f",
    ],
    ids=["long list", "nested structs", "nested lists", "long text", "unknown kind"],
)
def test_thrift_that_claims_too_much(data: bytes) -> None:
    with pytest.raises(Damaged):
        CompactReader(data).structure()


def test_footers_that_contradict_themselves(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"step": [0, 1], "loss": [1.0, 2.0]}), path, store_schema=False)
    sound = path.read_bytes()
    assert read_footer(path).rows == 2
    for damaged, why in {
        sound[:-1]: "PAR1",
        sound[:-4] + b"PARE": "encrypted",
        sound[:-8] + b"\xff\xff\xff\x00PAR1": "longer than the file",
        sound[:-8] + b"\xff\xff\xff\x7fPAR1": "the most that is read",
        sound.replace(b"\x18\x04loss", b"\x18\x04l\xffss"): "UTF-8",
    }.items():
        path.write_bytes(damaged)
        with pytest.raises(UnreadableInput, match=why):
            _part(path)


def test_a_wide_file_is_opened_once_and_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = 200
    pq.write_table(pa.table({f"act_rms/layer{i}": np.arange(4.0) for i in range(columns)}), tmp_path / "x.parquet")
    opened: list[object] = []
    original = pq.ParquetFile

    def counted(*args: Any, **kwargs: Any) -> Any:
        opened.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    handles = len(list(Path("/dev/fd").iterdir()))
    part = _part(tmp_path / "x.parquet")
    assert all(isinstance(part.load(name), Numbers) for name in part.names)
    assert len(opened) == 1 and len(part.names) == columns
    assert len(list(Path("/dev/fd").iterdir())) == handles


class _Name(str):
    """A name that counts its comparisons."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        _Name.compared += 1
        return str.__eq__(self, other)  # pyright: ignore[reportArgumentType]

    __hash__ = str.__hash__


def test_finding_a_column_does_not_look_at_all_others() -> None:
    names = tuple(_Name(f"column {i}") for i in range(1000))
    part = Part(2, names, lambda _: Numbers(np.zeros(2), None), lambda _: None)
    table = Table("x", (part, part))
    for i in range(0, 1000, 10):
        assert table.numbers(f"column {i}") is not None
        assert table.bounds(f"column {i}") is None
        assert isinstance(table.objects(f"column {i}"), np.ndarray)
    assert _Name.compared < 10_000


def test_a_column_is_read_piece_by_piece(tmp_path: Path) -> None:
    rows = 1_000_000
    values = np.random.default_rng(0).standard_normal(rows)
    pq.write_table(pa.table({"loss": values}), tmp_path / "x.parquet", row_group_size=50_000, use_dictionary=False)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    cells = _part(tmp_path / "x.parquet").load("loss")
    assert isinstance(cells, Numbers) and np.array_equal(cells.value, values)
    assert pool.bytes_allocated() - before < values.nbytes / 4


class _Start(int):
    """A position that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        _Start.compared += 1
        return int.__lt__(self, other)

    def __gt__(self, other: int) -> bool:
        _Start.compared += 1
        return int.__gt__(self, other)


def test_a_column_of_many_pieces_is_not_searched_from_the_start(tmp_path: Path) -> None:
    pq.write_table(pa.table({"loss": [1.0]}), tmp_path / "x.parquet")
    checked = _CheckedBytes(read_footer(tmp_path / "x.parquet"))
    with checked.holding([(_Start(10 * i), b"%010d" % i) for i in reversed(range(1000))]):
        _Start.compared = 0
        for i in range(1000):
            checked.seek(10 * i + 7)
            assert checked.read(3) == b"%03d" % i
        assert _Start.compared < 15_000
        with pytest.raises(OSError, match="belong to no page"):
            checked.read(1)
        checked.seek(5)
        with pytest.raises(OSError, match="belong to no page"):
            checked.read(10)


def test_dictionary_positions_that_are_not_listed() -> None:
    from postmortem.run.arrow import from_arrow

    data = pa.py_buffer(np.array([0, 7], np.int32))
    indices = pa.Array.from_buffers(pa.int32(), 2, [None, data])
    broken = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)
    with pytest.raises(ValueError, match="does not list"):
        from_arrow(broken, label=True)
    sound = from_arrow(pa.array(["a", None, "b"]).dictionary_encode(), label=True)
    assert isinstance(sound, LabelCells) and sound.value.tolist() == ["a", None, "b"]
