"""What keeps the code readable piece by piece: no file is long, and no room holds too much of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.samples import ROOT

LONGEST = 400  # lines of a file
# Files that are longer, and the lines that each may have. An entry may become smaller or go, and not grow.
LONGER = {
    "tests/checkpoint/test_inspection.py": 415,
    "tests/record/test_recorder.py": 470,
}
LARGEST = 0.15  # of the package's lines, in one room
FOLDERS = ("benchmarks", "examples", "postmortem", "scripts", "tests", "typings")


def lines(folder: Path) -> dict[str, int]:
    """Path below the repository → lines, of every Python file in `folder`."""
    files = sorted(path for path in folder.rglob("*.py*") if path.suffix in (".py", ".pyi"))
    return {path.relative_to(ROOT).as_posix(): path.read_bytes().count(b"\n") for path in files}


PACKAGE = lines(ROOT / "postmortem")
ROOMS = sorted({name.split("/")[1] for name in PACKAGE if name.count("/") > 1})


def test_no_file_is_long() -> None:
    every = {name: count for folder in FOLDERS for name, count in lines(ROOT / folder).items()}
    assert len(every) > 100, "the files are not where this test looks for them"
    long = {name: count for name, count in every.items() if count > LONGER.get(name, LONGEST)}
    assert not long, f"split these; lines, where {LONGEST} are the most and LONGER names the exceptions: {long}"
    needless = {name: every.get(name, "no such file") for name in LONGER if every.get(name, 0) <= LONGEST}
    assert not needless, f"no exceptions any more, take them out of LONGER: {needless}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_holds_too_much_of_the_package(room: str) -> None:
    total, mine = sum(PACKAGE.values()), sum(count for name, count in PACKAGE.items() if name.split("/")[1] == room)
    share = f"postmortem/{room} has {mine:,} of the package's {total:,} lines, {mine / total:.1%}"
    assert mine <= LARGEST * total, f"{share}; {LARGEST:.0%} are the most: part of it is a room of its own"
