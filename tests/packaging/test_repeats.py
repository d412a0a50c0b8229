"""Nothing is written twice: no six lines in a row are in two places of the package, the scripts and the benchmarks.

Only significant lines count: blank lines, comments, imports and lines without a letter or digit are left out, and
whitespace is folded. So an import block or a few closing brackets make no repeat.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("postmortem", "scripts", "benchmarks")
LENGTH = 6  # lines

# (file, file) → why the two may share lines.
ALLOWED: Mapping[tuple[str, str], str] = {}

_IMPORT = re.compile(r"(from [\w.]+ )?import ")
_LETTER = re.compile(r"\w")


@dataclass(frozen=True)
class Line:
    """A significant line: its number in the file, from 1, and its text with each run of whitespace as one space."""

    number: int
    text: str


Repeat = tuple[str, str, int, int, int]  # file, file, number of the first line in each, how many lines they share


def significant_lines(source: str) -> list[Line]:
    """The lines of `source` that count."""
    lines: list[Line] = []
    in_import = False
    for number, raw in enumerate(source.splitlines(), start=1):
        text = " ".join(raw.split())
        if in_import or _IMPORT.match(text):
            in_import = ")" not in text and (in_import or text.endswith("("))
        elif _LETTER.search(text) and not text.startswith("#"):
            lines.append(Line(number, text))
    return lines


def repeats(files: Mapping[str, Sequence[Line]]) -> Iterator[Repeat]:
    """Each pair of places in `files` (name → significant lines) that share LENGTH or more lines in a row."""
    places: defaultdict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in files.items():
        texts = [line.text for line in lines]
        for start in range(len(texts) - LENGTH + 1):
            places[tuple(texts[start : start + LENGTH])].append((name, start))
    pairs = {pair for copies in places.values() if len(copies) > 1 for pair in combinations(copies, 2)}
    for (a, start_a), (b, start_b) in sorted(pairs):
        overlap = a == b and start_b - start_a < LENGTH
        if overlap or ((a, start_a - 1), (b, start_b - 1)) in pairs:
            continue  # the second is reported with the pair of places that begins earlier
        more = 0
        while ((a, start_a + more + 1), (b, start_b + more + 1)) in pairs:
            more += 1
        yield a, b, files[a][start_a].number, files[b][start_b].number, LENGTH + more


@cache
def repeats_of_this_repository() -> list[Repeat]:
    """The repeats in the Python files of ROOMS, with paths from the repository's root."""
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return list(repeats({str(path.relative_to(ROOT)): significant_lines(path.read_text("utf-8")) for path in paths}))


def test_no_six_lines_are_written_twice() -> None:
    pairs = [
        f"{a}:{line_a} and {b}:{line_b} share {count} lines"
        for a, b, line_a, line_b, count in repeats_of_this_repository()
        if (a, b) not in ALLOWED
    ]
    assert not pairs, "\n" + "\n".join(pairs)


def test_allowed_pairs_still_repeat() -> None:
    """A pair that no longer shares lines must leave the list."""
    assert ALLOWED.keys() <= {(a, b) for a, b, *_ in repeats_of_this_repository()}


SIX = [f"    total += weight_{letter} * value" for letter in "abcdef"]


def lines_of(*texts: str) -> list[Line]:
    return significant_lines("\n".join(texts))


def test_lines_that_do_not_count_do_not_hide_a_repeat() -> None:
    spaced = [text for line in SIX for text in (line, "", "    # why", "    )")]
    files = {"a.py": lines_of("def f():", *SIX), "b.py": lines_of("x = 1", *spaced, "y = 2")}
    assert list(repeats(files)) == [("a.py", "b.py", 2, 2, 6)]


def test_a_longer_repeat_is_one_pair() -> None:
    files = {"a.py": lines_of(*SIX, "done = True"), "b.py": lines_of("x = 1", *SIX, "done = True")}
    assert list(repeats(files)) == [("a.py", "b.py", 1, 2, 7)]


def test_a_repeat_within_one_file_is_found() -> None:
    assert list(repeats({"a.py": lines_of(*SIX, "x = 1", *SIX)})) == [("a.py", "a.py", 1, 8, 6)]


def test_five_lines_and_imports_do_not_count() -> None:
    block = ["from x import (", "    a,", "    b,", "    c,", "    d,", "    e,", "    f,", ")", "import y"]
    files = {"a.py": lines_of(*block, *SIX[:5]), "b.py": lines_of(*block, *SIX[:5])}
    assert not list(repeats(files))
