"""lessons.md as a file of the person: nothing in it is lost, whoever writes, and whatever fails."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem import atomic, exclusive
from postmortem.diagnosis import Diagnosis
from postmortem.errors import CannotWrite, UsageError
from postmortem.report import add_lesson, check_lessons
from tests.report.factory import clean, hostile, several, spike

ADVICE = "One rare piece concentrated in a single batch can dominate the global gradient norm for 50 steps."


def named(run: str, lesson: str = ADVICE, date: str = "2026-11-20", **incident: object) -> Diagnosis:
    base = spike()
    changed = replace(base.incidents[0], lesson=lesson, **incident)
    return replace(base, run_id=run, incidents=(changed,), run=replace(base.run, date=date))


def add(diagnosis: Diagnosis, book: Path, **more: object) -> bool:
    """Enter a lesson of the run in the folder `runs/<id>` beside the notebook."""
    return add_lesson(diagnosis, book, **{"run": book.parent / "runs" / "x", **more})  # type: ignore[arg-type]


def test_a_line_says_what_happened_what_it_teaches_and_where_the_report_is(tmp_path: Path) -> None:
    book = tmp_path / "lessons.md"
    run, report = tmp_path / "runs" / "19-spike-001", tmp_path / "out put" / "report.md"
    assert add_lesson(spike(), book, run=run, report=report)
    title, section, heading, line = (text for text in book.read_text("utf-8").split("\n") if text)
    assert (title, section) == ("# Lessons", "## Suspected")
    assert heading == "### 19-spike-001 (2026-11-20) <!-- run runs/19-spike-001 19-spike-001 -->"
    body, _, mark = line.partition(" <!-- ")
    cause = spike().incidents[0].root_cause.rstrip(".")
    assert body == f"- **Step 312, supported.** {cause}. {ADVICE} ([report](out%20put/report.md))"
    assert mark.startswith("lesson ") and mark.split()[2] == "supported" and mark.endswith(" -->")


def test_the_same_lesson_is_never_added_twice(tmp_path: Path) -> None:
    book = tmp_path / "lessons.md"
    add(spike(), book, report=tmp_path / "a" / "report.md")
    once = book.read_bytes()
    later = replace(spike(), run=replace(spike().run, date="2027-01-01"))
    assert not add(later, book, report=tmp_path / "b" / "report.md")
    assert not add(later, book)
    assert book.read_bytes() == once
    assert add(several(), book, incident=2, undecided=True)
    assert book.read_text("utf-8").count("<!-- lesson ") == 2


def test_without_an_incident_nothing_is_added(tmp_path: Path) -> None:
    assert not add(clean(), tmp_path / "lessons.md")
    assert list(tmp_path.iterdir()) == []


def test_an_undecided_incident_is_entered_only_if_asked_for(tmp_path: Path) -> None:
    book = tmp_path / "lessons.md"
    open_one = named("a", verdict="undecided", root_cause="", not_known="Not known yet")
    assert not add(open_one, book)
    assert list(tmp_path.iterdir()) == []
    assert add(open_one, book, undecided=True)
    assert f"- **Step 312, undecided.** {open_one.incidents[0].summary} {ADVICE} <!-- " in book.read_text("utf-8")


@pytest.mark.parametrize("verdict", ["refuted", "interaction", "not_reproducible"])
def test_a_verdict_by_replay_without_a_cause_says_what_the_replays_showed(tmp_path: Path, verdict: str) -> None:
    book = tmp_path / "lessons.md"
    add(named("a"), book)
    assert add(named("a", verdict=verdict, root_cause="", proof="two placebos cure as well"), book)
    text = book.read_text("utf-8")
    assert text.count("<!-- lesson ") == 1 and "Confirmed" not in text
    assert f"Step 312, {verdict.replace('_', ' ')}.** " in text and ". Two placebos cure as well." in text


names = st.text(st.sampled_from("ab ·-[]()|`*_{}\n\r\t\u2028"), min_size=1, max_size=12)
earlier = st.lists(
    st.sampled_from(["# Lessons", "## Confirmed", "## Suspected", "### a", "- mine", "", " ", "text", "```", "\r", "#"])
    | st.text(max_size=10)
).map("\n".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=earlier, run=names, lesson=names, other=names)
def test_whatever_stood_there_stays(tmp_path: Path, before: str, run: str, lesson: str, other: str) -> None:
    """Every line of it, in its order; and what was entered is found again."""
    book = tmp_path / "lessons.md"
    book.write_bytes(before.encode())
    folders = [tmp_path / "runs" / "a", tmp_path / "runs" / "b"]
    for verdict in ("supported", "confirmed"):
        for diagnosis, folder in zip((named(run, lesson), named(other, lesson)), folders, strict=True):
            shown = replace(diagnosis, incidents=(replace(diagnosis.incidents[0], verdict=verdict),))
            assert add_lesson(shown, book, run=folder, report=tmp_path / "r.md")
            text = book.read_text("utf-8")
            assert not add_lesson(shown, book, run=folder) and book.read_text("utf-8") == text
    ours = ("<!-- lesson ", "<!-- run ")
    lines = [
        line for line in book.read_bytes().decode().split("\n") if line.strip() and not any(o in line for o in ours)
    ]
    kept = [
        line for line in before.split("\n") if line.strip() and line.strip() not in ("## Confirmed", "## Suspected")
    ]
    position = 0
    for line in kept:
        wanted = line.rstrip("\r")
        position += next(n for n, there in enumerate(lines[position:], 1) if there.rstrip("\r") == wanted)
    assert sum("<!-- lesson " in line for line in book.read_bytes().decode().split("\n")) == 2


@pytest.mark.parametrize("before", ["", "mine\n", "mine", "# Mine\n\n- one\n\n\n"])
def test_a_file_without_our_headings_is_continued(tmp_path: Path, before: str) -> None:
    book = tmp_path / "lessons.md"
    book.write_text(before)
    add(spike(), book)
    text = book.read_text("utf-8")
    assert text.startswith(before) and text.endswith("-->\n") and ("# Lessons" in text) == (before == "")
    assert "\n\n\n\n" not in text and text.count("\n## Suspected\n") == 1


def test_links_modes_and_line_ends_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.md", tmp_path / "lessons.md"
    real.write_bytes(b"# Mine\r\nno newline at the end")
    real.chmod(0o640)
    link.symlink_to(real)
    add(spike(), link)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    data = real.read_bytes()
    assert data.startswith(b"# Mine\r\nno newline at the end\r\n\r\n## Suspected\r\n") and data.endswith(b"\r\n")
    assert data.count(b"\n") == data.count(b"\r\n")


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
@pytest.mark.parametrize("part", ["_write", "_fsync", "_replace"])
def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes, part: str) -> None:
    book = tmp_path / "lessons.md"
    if before:
        book.write_bytes(before)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, part, full)
    with pytest.raises(CannotWrite, match=r"lessons\.md: cannot be written \(No space"):
        add(spike(), book)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({"lessons.md": before} if before else {})


@pytest.mark.parametrize("before", [None, "mine\n"])
def test_many_at_once_lose_nothing(tmp_path: Path, before: str | None) -> None:
    book = tmp_path / "lessons.md"
    if before:
        book.write_text(before)
    start = threading.Barrier(12)

    def enter(number: int) -> bool:
        start.wait()
        return add_lesson(named(f"run-{number}"), book, run=tmp_path / "runs" / str(number))

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(enter, range(12)))
    text = book.read_text("utf-8")
    assert all(text.count(f"### run-{number} (") == 1 for number in range(12))
    assert text.count("<!-- lesson ") == 12 and text.count("## Suspected") == 1 and ("mine" in text) == bool(before)
    assert [path.name for path in tmp_path.iterdir()] == ["lessons.md"]


def test_a_notebook_that_another_process_keeps_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = tmp_path / "lessons.md"
    monkeypatch.setattr(exclusive, "_TURN_S", 0.05)
    with exclusive.exclusive(book), pytest.raises(CannotWrite, match=r"lessons\.md: .*another process is writing it"):
        add(spike(), book)
    assert not book.exists()
    assert add(spike(), book)


@pytest.mark.parametrize("length", [256, 5000])
def test_a_name_that_is_too_long_is_a_wrong_name(tmp_path: Path, length: int) -> None:
    with pytest.raises(UsageError, match="too long"):
        check_lessons(tmp_path / ("x" * length))


def test_hostile_names_stay_on_their_line(tmp_path: Path) -> None:
    book = tmp_path / "lessons.md"
    add(hostile(), book, undecided=True)
    text = book.read_text(encoding="utf-8")
    assert text.count("\n") == 7 and "\x1b" not in text and "<img" not in text and "{{" not in text
    assert text.count("<!--") == text.count("-->") == 2
    assert not add(hostile(), book)
