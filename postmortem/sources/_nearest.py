"""What a file is that no source reads, which format is nearest, and the line to type next."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from postmortem.sources._shape import delimiter_of, fields_of, json_lines
from postmortem.sources._source import Candidate
from postmortem.text import plain

_BINARY = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it: a checkpoint is no log",
    b"\x80\x02": "a pickle: no log, and never opened",
    b"\x80\x03": "a pickle: no log, and never opened",
    b"\x80\x04": "a pickle: no log, and never opened",
    b"\x80\x05": "a pickle: no log, and never opened",
    b"\x89HDF": "an HDF5 file: a checkpoint of Keras' is no log",
    b"\x89PNG": "a picture: the numbers behind it are needed",
    b"\xff\xd8\xff": "a picture: the numbers behind it are needed",
    b"%PDF": "a PDF: the numbers behind it are needed",
    b"\x93NUMPY": "an array of numpy's, without names of columns",
    b"SQLite format 3\0": "a SQLite database without MLflow's or Trackio's table of metrics",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_ARCHIVES = {b"BZh": "bzip2 -dk", b"\xfd7zXZ": "xz -dk", b"\x28\xb5\x2f\xfd": "zstd -dk", b"\x1f\x8b": "gzip -dk"}


def nearest(candidate: Candidate) -> tuple[str, str]:
    """(what the file is, or is nearest to; the next line to type, or what to do). It reads no more than the head."""
    path, head = _argument(candidate.path), candidate.head
    for magic, what in _BINARY.items():
        if head.startswith(magic):
            unpack = _ARCHIVES.get(magic)
            return what, f"Unpack it: {unpack} {path}" if unpack else "Give the log that the training wrote."
    if not head.strip():
        return "there is no text in it", "Has the run logged a step yet?"
    try:
        text = head[: head.rfind(b"\n") + 1 or len(head)].decode("utf-8-sig")
    except UnicodeDecodeError:
        return "binary data in no format that is known", "Give the log that the training wrote."
    return _of_text(candidate, text, path)


def _of_text(candidate: Candidate, text: str, path: str) -> tuple[str, str]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    shown = f"its first line is '{plain(first.strip(), 80)}'"
    if json_lines(candidate) or first.lstrip().startswith("{"):
        return f"the nearest format is JSON, but {shown}", f"To see why: postmortem draft {path} --source jsonl"
    fields = fields_of(first, delimiter_of(first))
    if len(fields) > 1:
        why = "no header of names above rows of as many numbers"
        return (
            f"the nearest format is CSV, but it has {why}: {shown}",
            f"To see why: postmortem draft {path} --source csv",
        )
    return (
        f"text without a line of numbers that is known: {shown}",
        "Write one row a step as CSV (step,loss,lr,grad_norm), and: postmortem draft metrics.csv",
    )


def _argument(path: Path) -> str:
    return plain(quote(str(path)), 1000)
