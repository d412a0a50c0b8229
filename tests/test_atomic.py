"""The door through which commands write: whole files, inside the run, one kind of error, and no litter."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postmortem import atomic
from postmortem.errors import CannotWrite, UsageError

WRITE = atomic._write
OTHER_HOST = f"{int(atomic._host(), 16) ^ 1:08x}"
HOLD = """
import sys, time
from pathlib import Path
from postmortem import atomic
if sys.argv[2] == "folder":
    with atomic.staged(Path(sys.argv[1])) as stage:
        print(stage, flush=True)
        time.sleep(60)
def wait(handle):
    print("", flush=True)
    time.sleep(60)
atomic._fsync = wait
atomic.write_bytes(Path(sys.argv[1]), b"new")
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


class TestWhole:
    def test_few_bytes_at_a_time_become_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(atomic, "_write", lambda handle, data: WRITE(handle, data[:3]))
        atomic.write_bytes(tmp_path / "a", b"0123456789")
        atomic.write_new(tmp_path / "b", b"0123456789")
        assert contents(tmp_path) == {"a": b"0123456789", "b": b"0123456789"}

    @pytest.mark.parametrize("call", ["_write", "_fsync", "_replace"])
    def test_a_failure_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        (tmp_path / "a").write_bytes(b"old")
        monkeypatch.setattr(atomic, call, failing(errno.ENOSPC))
        with pytest.raises(OSError, match="No space"):
            atomic.write_bytes(tmp_path / "a", b"new")
        assert contents(tmp_path) == {"a": b"old"}

    def test_a_system_that_takes_nothing_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(atomic, "_write", lambda *_: 0)
        with pytest.raises(OSError, match="Input/output error"):
            atomic.write_bytes(tmp_path / "a", b"new")
        assert contents(tmp_path) == {}

    def test_a_name_of_255_bytes_can_be_written(self, tmp_path: Path) -> None:
        name = "é" * 127 + "x"
        atomic.write_bytes(tmp_path / name, b"new")
        assert contents(tmp_path) == {name: b"new"}

    def test_the_mode_of_a_file_stays(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"old")
        (tmp_path / "a").chmod(0o640)
        for name in "ab":
            atomic.write_bytes(tmp_path / name, b"new")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o666 & ~atomic.umask()

    @pytest.mark.parametrize("write", [lambda handle, data: WRITE(handle, data[:3]), failing(errno.ENOSPC)])
    def test_an_append_is_whole_or_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Any]
    ) -> None:
        (tmp_path / "a").write_bytes(b"old\n")
        monkeypatch.setattr(atomic, "_write", write)
        for name in "ab":
            with pytest.raises(OSError, match=r"No space|only 3 of 4 bytes"):
                atomic.append(tmp_path / name, b"new\n")
        assert contents(tmp_path) == {"a": b"old\n"}

    def test_a_folder_takes_the_place_of_another(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = tmp_path / "place"
        for text in (b"old", b"new"):
            with atomic.staged(place) as stage:
                atomic.write_new(stage / "a", text)
                atomic.put_folder(stage, place)
            assert contents(tmp_path) == {"place/a": text}
        moves = iter([None, OSError(errno.EIO, "no"), None])

        def broken(source: Path, target: Path) -> None:
            problem = next(moves)
            if problem is not None:
                raise problem
            source.replace(target)

        monkeypatch.setattr(atomic, "_replace", broken)
        with pytest.raises(OSError, match="no"), atomic.staged(place) as stage:
            atomic.put_folder(stage, place)
        assert contents(tmp_path) == {"place/a": b"new"} and hidden(tmp_path) == []


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            *((code, CannotWrite) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)),
            *((code, CannotWrite) for code in (errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ENOENT)),
            *((code, CannotWrite) for code in (errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV, errno.EBUSY, errno.EMFILE)),
            (errno.ENAMETOOLONG, UsageError),
        ],
        ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
    )
    @pytest.mark.parametrize("option", ["--lessons PATH", ""])
    def test_what_the_system_says_is_one_message(
        self, tmp_path: Path, code: int, kind: type[Exception], option: str
    ) -> None:
        with pytest.raises(kind) as caught, atomic.saving(tmp_path / "a", option=option):
            failing(code)()
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'a'}: ") and "\n" not in message and message.endswith(".")
        assert (option in message) and ("Free some space" in message) == (code in {28, errno.EDQUOT, errno.EFBIG})

    def test_a_stage_is_not_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(source: Path, target: Path) -> None:
            raise PermissionError(errno.EACCES, "no", str(source), None, str(target / "b"))

        monkeypatch.setattr(atomic, "_replace", refused)
        message = rf"^{re.escape(str(tmp_path))}/a/b: cannot be written \(no\)"
        with pytest.raises(CannotWrite, match=message), atomic.saving(tmp_path):
            atomic.write_bytes(tmp_path / "a", b"")
        with pytest.raises(CannotWrite) as caught, atomic.saving(tmp_path / "a"), atomic.staged(tmp_path / "a") as s:
            (s / "x" / "y").mkdir()
        assert str(caught.value).startswith(f"{tmp_path / 'a'}: ")

    @pytest.mark.parametrize("name", ["a" * 256, "é" * 200, "nul\0", "half\ud800"])
    def test_names_that_no_file_can_have(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match="--out DIR"):
            atomic.check_place(tmp_path / name)


class TestInside:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "file").write_bytes(b"mine")
        (tmp_path / "run" / "metrics").mkdir(parents=True)
        return tmp_path / "run"

    @pytest.mark.parametrize(
        ("link", "target", "place"),
        [
            ("postmortem", "../outside", "postmortem"),
            ("postmortem", "../outside", "postmortem/replays/R0"),
            ("file", "../outside/file", "file"),
            ("postmortem", "../not-there", "postmortem"),
            ("postmortem", "metrics/../../outside", "postmortem/file"),
            ("a", "b", "../outside/file"),
        ],
    )
    def test_what_leads_outside_is_refused(self, run: Path, link: str, target: str, place: str) -> None:
        (run / link).symlink_to(target)
        before = contents(run.parent)
        writers: list[Callable[[], None]] = [
            lambda: atomic.write_bytes(run / place, b"new", within=run),
            lambda: atomic.write_text(run / place, "new", within=run),
            lambda: atomic.append(run / place, b"new", within=run),
            lambda: atomic.make_folder(run / place, within=run),
            lambda: atomic.check_place(run / place, within=run),
        ]
        for write in writers:
            with pytest.raises(CannotWrite, match="leads outside the run"):
                write()
        assert contents(run.parent) == before and not (run.parent / "not-there").exists()

    def test_links_within_the_run_and_to_the_run_are_followed(self, run: Path) -> None:
        (run / "postmortem").symlink_to("metrics")
        alias = run.parent / "alias"
        alias.symlink_to(run)
        atomic.write_bytes(alias / "postmortem" / "a", b"new", within=alias)
        assert (run / "metrics" / "a").read_bytes() == b"new"

    def test_a_link_of_itself_is_one_message(self, run: Path) -> None:
        (run / "postmortem").symlink_to("postmortem")
        with pytest.raises(CannotWrite, match="postmortem"), atomic.saving(run / "postmortem", within=run):
            atomic.make_folder(run / "postmortem", within=run)


def start(place: Path, kind: str) -> tuple[subprocess.Popen[str], Path]:
    """A process that fills a stage of `place`, and that stage."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, place, kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    (name,) = hidden(place.parent)
    return process, place.parent / name


def write(place: Path, kind: str) -> None:
    if kind == "folder":
        with atomic.staged(place) as stage:
            atomic.put_folder(stage, place)
    else:
        atomic.write_bytes(place, b"mine")


class TestStages:
    @pytest.mark.processes
    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_of_the_living_they_stay_and_of_the_dead_they_go(self, tmp_path: Path, kind: str) -> None:
        place = tmp_path / "place"
        process, stage = start(place, kind)
        with process:
            write(place, kind)
            lives = stage.exists()
            process.send_signal(signal.SIGKILL)
        assert lives, "the stage of a living process was swept"
        assert stage.exists(), "nobody could remove it yet"
        assert atomic.names_in(tmp_path) == {"place"}
        write(place, kind)
        assert [path.name for path in tmp_path.iterdir()] == ["place"]

    @pytest.mark.parametrize("age", [0, 7200])
    @pytest.mark.parametrize("host", ["", f"{OTHER_HOST}.", f"{atomic._host()}."])
    def test_without_a_lock_the_machine_and_the_age_decide(self, tmp_path: Path, host: str, age: float) -> None:
        file, folder = tmp_path / f".place.{host}abcdefgh.tmp", tmp_path / f".place.{host}hgfedcba.draft"
        file.write_bytes(b"half")
        (folder / "panels").mkdir(parents=True)
        for stage in (file, folder):
            os.utime(stage, (time.time() - age,) * 2)
        atomic.write_bytes(tmp_path / "place", b"new")
        stays = not age and OTHER_HOST in host
        assert (file.exists(), folder.exists()) == (stays, stays)

    @pytest.mark.parametrize("result", [None, OSError(errno.ENOLCK, "no locks")])
    def test_without_locks_nothing_young_is_swept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: OSError | None
    ) -> None:
        if result is None:
            monkeypatch.setattr(atomic, "fcntl", None)
        else:
            monkeypatch.setattr("postmortem.atomic.fcntl.flock", failing(errno.ENOLCK))
        process_of_another = tmp_path / f".place.{atomic._host()}.abcdefgh.tmp"
        process_of_another.write_bytes(b"half")
        for kind in ("file", "folder"):
            write(tmp_path / kind, kind)
        write(tmp_path / "place", "file")
        assert process_of_another.exists()
        os.utime(process_of_another, (0, 0))
        write(tmp_path / "place", "file")
        assert atomic.names_in(tmp_path) == {path.name for path in tmp_path.iterdir()}

    def test_what_is_no_stage_of_the_place_stays(self, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "file").write_bytes(b"mine")
        folder = tmp_path / "folder"
        folder.mkdir()
        names = {".other.abcdefgh.tmp", ".place.mine.tmp", ".place.tmp", "place.abcdefgh.tmp", ".place.abcdefgh.tmpx"}
        for name in names:
            (folder / name).write_bytes(b"mine")
        (folder / ".place.aaaaaaaa.tmp").symlink_to(tmp_path / "outside" / "file")
        (folder / ".place.bbbbbbbb.draft").symlink_to(tmp_path / "outside")
        os.mkfifo(folder / ".place.cccccccc.tmp")
        atomic.write_bytes(folder / "place", b"new")
        links = {".place.aaaaaaaa.tmp", ".place.bbbbbbbb.draft", ".place.cccccccc.tmp"}
        assert {path.name for path in folder.iterdir()} == {"place", *names, *links}
        assert (tmp_path / "outside" / "file").read_bytes() == b"mine"

    def test_those_of_earlier_versions_go(self, tmp_path: Path) -> None:
        (tmp_path / ".place.tmp-4711" / "metrics").mkdir(parents=True)
        (tmp_path / ".place.abcdefgh.draft").mkdir()
        write(tmp_path / "place", "folder")
        assert [path.name for path in tmp_path.iterdir()] == ["place"]
