"""A file that no source reads: what it is, the nearest format, what was tried, and the line to type next."""

from __future__ import annotations

from pathlib import Path

import pytest

from postmortem.errors import UnreadableInput
from postmortem.sources import open_run
from tests.sources.helpers import ESCAPE, write


@pytest.mark.parametrize(
    ("data", "what", "then"),
    [
        (b"PK\x03\x04rest", "a zip archive, as torch.save writes it", "Give the log"),
        (b"\x80\x04\x95abc", "a pickle: no log, and never opened", "Give the log"),
        (b"\x89PNG\r\n", "a picture", "Give the log"),
        (b"SQLite format 3\0" + bytes(100), "without MLflow's or Trackio's table of metrics", "Give the log"),
        (b"\xfd7zXZ\0abc", "an xz archive", "Unpack it: xz -dk '"),
        (bytes(range(128, 256)) * 9, "binary data", "Give the log"),
        (b"\n \n", "no text in it", "Has the run logged a step yet?"),
        (b"\x1c\x1d\n\x85", "its first line is", "Write one row a step"),
        (b"step,loss\n1,2\n", "the nearest format is CSV, but", "draft '.*/a b.xyz' --source csv"),
        (b"when;what\nnow;hello\n", "its first line is 'when;what'", "--source csv"),
        (b'{"a": 1}\n', "the nearest format is JSON, but", "--source jsonl"),
        (b"hello\nworld\n", "its first line is 'hello'", "draft metrics.csv"),
        (f"he{ESCAPE}llo".encode(), "text without a line of numbers", "Write one row a step"),
    ],
)
def test_what_is_not_recognized_is_named(tmp_path: Path, data: bytes, what: str, then: str) -> None:
    with pytest.raises(
        UnreadableInput, match=rf"a b\.xyz: no known kind of run: .*{what}.*{then}.*\(Tried: .*CSV"
    ) as caught:
        open_run(write(tmp_path, "a b.xyz", data))
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_line_to_type_says_more(tmp_path: Path) -> None:
    path = write(tmp_path, "x.log", "step,loss\n1\n2\n")
    with pytest.raises(UnreadableInput, match=r"x\.log: no row has as many fields as its header in line 1 \(2\)"):
        open_run(path, source="csv")
