"""Replays in processes of their own: what comes through, what is not done twice, and what Ctrl-C leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from postmortem.arithmetic import Arithmetic
from postmortem.change import Change
from postmortem.experiment.pool import RESULT_FILE, FinishedReplay, default_workers, read_finished, run_replays
from postmortem.replay.spec import ReplaySpec
from postmortem.sources import open_run
from tests.makers import write_run
from tests.replays import Driver

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]


TWO_THREADS = Arithmetic("", threads=2)


def spec(folder: Path, name: str, **more: object) -> ReplaySpec:
    return replace(ReplaySpec(str(folder / "run"), str(folder / name), 100, 120, trusted=True), **more)


_NURSERY = """
import os, sys
from postmortem.experiment import fork_server
fork_server.main = lambda file: os.execv("/bin/sh", ["sh", sys.argv[1], str(file)])
fork_server.serve()
"""


@pytest.fixture
def acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for Python: a nursery that has not imported torch, whose children become a shell script, its word being
    the spec's file."""
    script, nursery, python = tmp_path / "script", tmp_path / "nursery.py", tmp_path / "python"
    script.write_text("exit 0\n")
    nursery.write_text(_NURSERY)
    python.write_text(f'#!/bin/sh\nSTARTED="$*" exec {sys.executable} {nursery} {script}\n')
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    return script


def act(script: Path, *lines: str) -> None:
    script.write_text("\n".join((*lines, "")))


class TestWhatComesThrough:
    """With a stand-in for the process."""

    def test_a_message_and_its_exit_code(self, acting: Path, tmp_path: Path) -> None:
        act(acting, "echo 'a warning of somebody' >&2", "printf 'batch 7 \\033[31mhas changed\\n\\n' >&2", "exit 5")
        (done,) = run_replays([spec(tmp_path, "a")])
        assert (done.result, done.error, done.exit_code) == (None, "batch 7 \ufffd[31mhas changed", 5)

    def test_a_process_that_is_killed(self, acting: Path, tmp_path: Path) -> None:
        act(acting, "kill -9 $$")
        (done,) = run_replays([spec(tmp_path, "a")])
        assert done.result is None and done.error == "the process ended with -9 and printed nothing"

    def test_one_that_ends_well_and_leaves_nothing(self, acting: Path, tmp_path: Path) -> None:
        (done,) = run_replays([spec(tmp_path, "a")])
        assert done.result is None and done.error

    def test_endless_words_are_cut(self, acting: Path, tmp_path: Path) -> None:
        act(acting, "head -c 100000 /dev/zero | tr '\\0' x >&2", "exit 3")
        (done,) = run_replays([spec(tmp_path, "a")])
        assert len(done.error) <= 500 and done.exit_code == 3

    def test_threads_and_module_are_told(self, acting: Path, tmp_path: Path) -> None:
        act(acting, 'echo "$OMP_NUM_THREADS $STARTED $(basename $1)" >&2', "exit 2")
        (done,) = run_replays([spec(tmp_path, "a")], arithmetic=Arithmetic("", threads=3))
        assert done.error == "3 -P -m postmortem.experiment.fork_server replay.json"

    def test_results_keep_their_order_and_no_more_run_than_asked(self, acting: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        act(acting, f"echo + >> {log}", "sleep 0.1", f"echo - >> {log}", "exit 2")
        specs = [spec(tmp_path, name) for name in "abcd"]
        heard: list[FinishedReplay] = []
        every = run_replays(specs, workers=2, on_done=heard.append)
        assert [done.spec for done in every] == specs
        assert sorted(done.spec.out for done in heard) == [one.out for one in specs]
        running = most = 0
        for line in log.read_text().split():
            running += 1 if line == "+" else -1
            most = max(most, running)
        assert most == 2

    def test_an_error_of_whoever_listens_leaves_no_process(self, acting: Path, tmp_path: Path) -> None:
        act(acting, f'case "$(cat $1)" in *slow*) echo $$ > {tmp_path}/pid; exec sleep 60;; esac', "sleep 0.2; exit 2")

        def listen(done: FinishedReplay) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_replays([spec(tmp_path, "slow"), spec(tmp_path, "quick")], workers=2, on_done=listen)
        assert not alive(int((tmp_path / "pid").read_text()))

    def test_one_process_starts_them_all_until_the_environment_changes(
        self, acting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        act(acting, "echo $PPID >&2", "exit 2")
        a, b, c = run_replays([spec(tmp_path, name) for name in "abc"], workers=2)
        (d,) = run_replays([spec(tmp_path, "d")])
        assert a.error == b.error == c.error == d.error
        (threads,) = run_replays([spec(tmp_path, "e")], arithmetic=TWO_THREADS)
        monkeypatch.setenv("OF_THE_PROGRAM", "1")
        (environment,) = run_replays([spec(tmp_path, "e")], arithmetic=TWO_THREADS)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        (folder,) = run_replays([spec(tmp_path, "e")], arithmetic=TWO_THREADS)
        started = [done.error for done in (a, threads, environment, folder)]
        assert len(set(started)) == 4 and not any(alive(int(pid)) for pid in started[:3])

    def test_where_the_one_that_starts_them_dies_they_end_and_the_next_call_starts_another(
        self, acting: Path, tmp_path: Path
    ) -> None:
        act(acting, f"echo $$ > {tmp_path}/pid", "kill -9 $PPID", "exec sleep 60")
        (done,) = run_replays([spec(tmp_path, "a")])
        assert done.result is None and done.error == "the process that starts replays ended with -9 and printed nothing"
        patience = time.monotonic() + 10
        while alive(int((tmp_path / "pid").read_text())) and time.monotonic() < patience:
            time.sleep(0.02)
        assert not alive(int((tmp_path / "pid").read_text()))
        act(acting, "echo well >&2", "exit 2")
        a, b = run_replays([spec(tmp_path, "a"), spec(tmp_path, "b")])
        assert a.error == b.error == "well"

    def test_one_that_cannot_start_says_why(self, acting: Path, tmp_path: Path) -> None:
        (tmp_path / "nursery.py").write_text("import no_such_module")
        (done,) = run_replays([spec(tmp_path, "a")])
        assert done.error == "ModuleNotFoundError: No module named 'no_such_module'" and done.exit_code == 1

    def test_helpers_that_one_leaves_behind_are_ended(self, acting: Path, tmp_path: Path) -> None:
        act(acting, f"sleep 60 & echo $! > {tmp_path}/pid", "exit 2")
        run_replays([spec(tmp_path, "a")])
        patience = time.monotonic() + 10
        while alive(int((tmp_path / "pid").read_text())) and time.monotonic() < patience:
            time.sleep(0.02)
        assert not alive(int((tmp_path / "pid").read_text()))

    def test_nothing_to_do(self) -> None:
        assert run_replays([]) == [] and default_workers() >= 1


def alive(pid: int) -> bool:
    """Whether it runs; an orphan that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


class TestFinished:
    def done(self, folder: Path, driver: Driver, run: Path) -> ReplaySpec:
        carried = replace(spec(folder, "a"), run=str(run))
        (done,) = driver([carried])
        assert done.result is not None, done.error
        return carried

    def test_is_taken_from_its_place_and_by_what_it_does(
        self, in_process: Driver, acting: Path, rogue_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("torch")
        carried = self.done(tmp_path, in_process, rogue_run)
        (again,) = run_replays([carried])
        assert again.result is not None and again.result.exact, "the stand-in would have left no result"
        monkeypatch.chdir(tmp_path)
        assert read_finished(replace(carried, run="run", out="a")) is not None, "however the paths are spelled"
        for other in (
            replace(carried, until=121),
            replace(carried, changes=(Change.from_text("noise=1"),)),
            replace(carried, run=str(tmp_path / "another")),
            replace(carried, save_at=(110,)),
            replace(carried, program="elsewhere:build"),
        ):
            assert read_finished(other) is None

    def test_what_broke_off_or_is_damaged_is_not(self, in_process: Driver, rogue_run: Path, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        carried = self.done(tmp_path, in_process, rogue_run)
        result = tmp_path / "a" / RESULT_FILE
        whole = result.read_text()
        for damage in (whole[: len(whole) // 2], "{}", "[1]", "", "\x00\xff"):
            result.write_text(damage)
            assert read_finished(carried) is None
        result.unlink()
        assert read_finished(carried) is None
        assert read_finished(replace(carried, out=str(tmp_path / "absent"))) is None

    def test_a_folder_that_is_none_of_ours(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", {"loss": [1.0, 2.0]})
        assert read_finished(spec(tmp_path, "a")) is None


def driving(rogue_run: Path, short: Path, long: Path) -> subprocess.Popen[str]:
    """A process that drives two specs, when the first is finished and the second is running."""
    environment = {**os.environ, "TMPDIR": str(rogue_run.parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", _ARMS, str(rogue_run), str(short), str(long)]
    parent = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 120
    while not (long / "metrics").exists() and parent.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    assert (short / RESULT_FILE).exists() and len(children(rogue_run.parent)) == 2
    return parent


# A shell that starts the tests in the background lets them ignore Ctrl-C, and this process inherits that.
_ARMS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from postmortem.experiment.pool import run_replays
from postmortem.replay.spec import ReplaySpec
short, long = (ReplaySpec(sys.argv[1], out, 100, until, trusted=True) for out, until in zip(sys.argv[2:], (110, 20000)))
run_replays([short, long], workers=1)
"""


def test_ctrl_c_ends_the_processes_and_the_next_call_goes_on(
    in_process: Driver, rogue_run: Path, tmp_path: Path
) -> None:
    """With real ones: the first of two specs is finished, the second is running."""
    pytest.importorskip("torch")
    short, long = tmp_path / "short", tmp_path / "long"
    with driving(rogue_run, short, long) as parent:
        parent.send_signal(signal.SIGINT)
        _, said = parent.communicate(timeout=30)
    assert "KeyboardInterrupt" in said and parent.returncode != 0
    assert not children(tmp_path), "no process outlives it"
    assert not list(tmp_path.glob("replay-*")), "nor a temporary file"
    assert open_run(long).row_steps[0] == 0, "what was begun stays readable"

    def asked(out: Path, until: int) -> ReplaySpec:
        return ReplaySpec(str(rogue_run), str(out), 100, until, trusted=True)

    assert read_finished(asked(long, 20000)) is None
    done = in_process([asked(short, 110), asked(long, 130)])
    assert in_process.driven == ["long"] and all(one.result is not None and one.result.exact for one in done)


def test_a_parent_that_is_killed_takes_its_processes_along(rogue_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with driving(rogue_run, tmp_path / "short", tmp_path / "long") as parent:
        parent.kill()
        parent.communicate(timeout=30)
    patience = time.monotonic() + 15
    while children(tmp_path) and time.monotonic() < patience:
        time.sleep(0.02)
    assert not children(tmp_path)


def children(folder: Path) -> list[int]:
    """Processes of the arm's module that put their temporary files into `folder`."""
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, told = ((place / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"postmortem.experiment.fork_server" in words and f"TMPDIR={folder}\0".encode() in told:
            found.append(int(place.name))
    return found


def test_a_program_that_fails_says_so_through_its_process(rogue_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.replay.small import edited

    failing = edited(rogue_run, tmp_path / "failing", lambda run: run["config"].update(fails_at=105))
    (done,) = run_replays([replace(spec(tmp_path, "a"), run=str(failing))])
    assert done.result is None and done.exit_code == 2
    assert "the program failed at step 105, on batch 105: RuntimeError: the shard is not there" in done.error
