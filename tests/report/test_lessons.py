"""lessons.md belongs to the person: a lesson is added once, and nothing else changes."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem.diagnosis import Diagnosis
from postmortem.errors import CannotWrite, UsageError
from postmortem.report import add_lesson, check_lessons
from tests.report.factory import clean, hostile, several, spike

LINE = (
    "- 2026-11-20 · 19-spike-001 · step 312 · One rare piece concentrated in a single batch can dominate the global "
    "gradient norm for 50 steps. ([report](out%20put/report.md))\n"
)


def named(run: str, lesson: str, date: str = "2026-11-20") -> Diagnosis:
    base = spike()
    incident = replace(base.incidents[0], lesson=lesson)
    return replace(base, run_id=run, incidents=(incident,), run=replace(base.run, date=date))


def test_a_lesson_is_one_line_with_a_relative_link(tmp_path: Path) -> None:
    book = tmp_path / "lessons.md"
    assert add_lesson(spike(), book, report=tmp_path / "out put" / "report.md")
    assert book.read_text(encoding="utf-8") == LINE


def test_the_same_lesson_is_never_added_twice(tmp_path: Path) -> None:
    book = tmp_path / "lessons.md"
    add_lesson(spike(), book, report=tmp_path / "a" / "report.md")
    later = replace(spike(), run=replace(spike().run, date="2027-01-01"))
    assert not add_lesson(later, book, report=tmp_path / "b" / "report.md")
    assert not add_lesson(later, book)
    assert add_lesson(several(), book, incident=2)
    assert len(book.read_text(encoding="utf-8").splitlines()) == 2


def test_without_an_incident_nothing_is_added(tmp_path: Path) -> None:
    assert not add_lesson(clean(), tmp_path / "lessons.md")
    assert not (tmp_path / "lessons.md").exists()


names = st.text(st.sampled_from("ab ·-[]()|`*_{}\n\r\t\u2028"), min_size=1, max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.text(max_size=60), run=names, lesson=names, other=names)
def test_whatever_stood_there_stays(tmp_path: Path, before: str, run: str, lesson: str, other: str) -> None:
    book = tmp_path / "lessons.md"
    book.write_bytes(before.encode())
    add_lesson(named(run, lesson), book, report=tmp_path / "r.md")
    once = book.read_bytes()
    assert once.startswith(before.encode()) and once.endswith((b"\n", before.encode() or b"\n"))
    assert not add_lesson(named(run, lesson, "2030-01-01"), book)
    assert book.read_bytes() == once
    add_lesson(named(other, lesson), book)
    assert book.read_bytes().startswith(once)


def test_links_modes_and_line_ends_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.md", tmp_path / "lessons.md"
    real.write_bytes(b"# Mine\r\nno newline at the end")
    real.chmod(0o640)
    link.symlink_to(real)
    add_lesson(spike(), link)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert real.read_bytes().startswith(b"# Mine\r\nno newline at the end\r\n- 2026") and real.read_bytes().endswith(
        b"\r\n"
    )


def test_files_that_are_no_lessons_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.md").write_bytes(b"fine\ncaf\xe9\n")
    for path, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "latin.md", r"latin\.md:2: is not UTF-8"),
        (tmp_path / "nowhere" / "lessons.md", "does not exist"),
        (Path("/dev/null"), "not a regular file"),
    ):
        with pytest.raises(UsageError, match=message):
            check_lessons(path)
    assert (tmp_path / "latin.md").read_bytes() == b"fine\ncaf\xe9\n"


@pytest.mark.parametrize("before", [b"", b"mine\n"])
@pytest.mark.parametrize("cut", [0, 5])
def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes, cut: int) -> None:
    book, write = tmp_path / "lessons.md", os.write
    if before:
        book.write_bytes(before)

    def full(handle: int, data: bytes) -> int:
        if not cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:cut])

    monkeypatch.setattr("postmortem.atomic._write", full)
    with pytest.raises(CannotWrite, match=r"lessons\.md: cannot be written \((No space|only 5 of)"):
        add_lesson(spike(), book)
    assert (book.read_bytes() if book.exists() else b"") == before


@pytest.mark.parametrize("length", [256, 5000])
def test_a_name_that_is_too_long_is_a_wrong_name(tmp_path: Path, length: int) -> None:
    with pytest.raises(UsageError, match="too long"):
        check_lessons(tmp_path / ("x" * length))


def test_hostile_names_stay_on_their_line(tmp_path: Path) -> None:
    book = tmp_path / "lessons.md"
    add_lesson(hostile(), book)
    text = book.read_text(encoding="utf-8")
    assert text.count("\n") == 1 and "\x1b" not in text and "<img" not in text and "{{" not in text
    assert not add_lesson(hostile(), book)
