"""torch.save's archives: what torch writes is read, and what merely looks like it is refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from postmortem.checkpoint import zips
from postmortem.errors import UnreadableInput
from tests.checkpoint.makers import flipped


def archive(compression: int = zipfile.ZIP_STORED, **contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, data in (contents or {"first": b"abc" * 100, "second": b"xyz" * 50}).items():
            made.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def read(data: bytes, start: int = 0, length: int | None = None) -> dict[str, zips.Record]:
    return zips.records(io.BytesIO(data), start, len(data) - start if length is None else length, "a.pt")


def test_records_at_an_offset_are_where_they_are_said_to_be() -> None:
    inner = archive()
    data = b"before" + inner + b"behind"
    found = read(data, 6, len(inner))
    assert list(found) == ["first", "second"]
    for name, expected in (("first", b"abc" * 100), ("second", b"xyz" * 50)):
        record = found[name]
        assert data[record.start : record.start + record.size] == expected
        assert zips.read(io.BytesIO(data), record, 1000, "a.pt") == expected
        assert record.crc == zlib.crc32(expected)


def test_archives_of_torch_with_wide_fields() -> None:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(10)}, buffer)
    data = buffer.getvalue()
    assert b"PK\6\6" in data  # torch writes the zip64 end record
    found = read(data)
    assert {"data.pkl", "data/0"} <= set(found) and found["data/0"].size == 80
    assert zips.read(io.BytesIO(data), found["data/0"], 80, "a.pt") == torch.arange(10).numpy().tobytes()


def patch(what: bytes, at: int, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrite `at` bytes behind the last place of `what`."""

    def change(data: bytes) -> bytes:
        place = data.rindex(what) + at
        return data[:place] + value + data[place + len(value) :]

    return change


CENTRAL, END, LOCAL = b"PK\1\2", b"PK\5\6", b"PK\3\4"
WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (lambda data: data[:-30], "cut short"),
    "empty": (lambda data: b"", "cut short"),
    "noise behind": (lambda data: data + b"noise", "cut short"),
    "compressed by the directory": (patch(CENTRAL, 10, b"\x08"), "compressed"),
    "encrypted": (patch(CENTRAL, 8, b"\x01"), "encrypted"),
    "packed size": (patch(CENTRAL, 20, struct.pack("<I", 1)), "contradicts itself"),
    "record over record": (patch(CENTRAL, 42, struct.pack("<I", 0)), "not what its directory says|overlap"),
    "record beyond the directory": (patch(CENTRAL, 42, struct.pack("<I", 2**31)), "beyond its end"),
    "local name": (patch(LOCAL, 30, b"X"), "not what its directory says"),
    "local method": (patch(LOCAL, 8, b"\x08"), "not what its directory says"),
    "local size": (patch(LOCAL, 22, struct.pack("<I", 7)), "not what its directory says"),
    "entry count": (patch(END, 8, struct.pack("<HH", 1, 1)), "damaged"),
    "directory offset": (patch(END, 16, struct.pack("<I", 1)), "not where it says"),
    "directory size": (patch(END, 12, struct.pack("<I", 2**31)), "not where it says"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_archive_is_refused(what: str) -> None:
    change, why = WRONG[what]
    with pytest.raises(UnreadableInput, match=why) as refused:
        read(change(archive()))
    assert str(refused.value).startswith("a.pt: ")


def test_a_compression_bomb_is_not_inflated() -> None:
    bomb = archive(zipfile.ZIP_DEFLATED, bomb=bytes(50 * 2**20))
    assert len(bomb) < 100_000
    with pytest.raises(UnreadableInput, match="compressed"):
        read(bomb)


def test_larger_than_its_data() -> None:
    data = archive(only=b"abc")
    size = struct.pack("<II", 10**6, 10**6)
    grown = patch(CENTRAL, 20, size)(patch(LOCAL, 18, size)(data))
    with pytest.raises(UnreadableInput, match="beyond its end"):
        read(grown)


def test_overlapping_entries() -> None:
    """Two entries of the directory for one local header: the quoted-overlap bomb."""
    data = archive(only=b"abc")
    end = data.rindex(END)
    start = data.index(CENTRAL)
    entry = data[start:end]
    tail = struct.pack("<4s4H2IH", END, 0, 0, 2, 2, 2 * len(entry), start, 0)
    with pytest.raises(UnreadableInput, match="overlap"):
        read(data[:start] + entry + entry + tail)


def test_a_record_with_a_flipped_bit() -> None:
    data = archive()
    record = read(data)["first"]
    with pytest.raises(UnreadableInput, match="CRC32 is wrong"):
        zips.read(io.BytesIO(flipped(data, record.start + 5)), record, 1000, "a.pt")


def test_a_record_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    data = archive()
    with pytest.raises(UnreadableInput, match="more than"):
        zips.read(io.BytesIO(data), read(data)["first"], 10, "a.pt")
