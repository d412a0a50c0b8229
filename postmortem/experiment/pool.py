"""Drives independent replays in parallel processes, forked by `fork_server`. Finished replays are not repeated."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from postmortem.arithmetic import NATIVE, Arithmetic
from postmortem.errors import UnreadableInput
from postmortem.jsonio import read_record
from postmortem.replay.spec import ReplaySpec, read_spec
from postmortem.run.replayed import RESULT_FILE, SPEC_FILE, ReplayResult
from postmortem.text import plain


@dataclass(frozen=True)
class FinishedReplay:
    """A replay that has ended: its result, or the message of the error that prevented one."""

    spec: ReplaySpec
    result: ReplayResult | None
    error: str = ""
    exit_code: int = 0


def default_workers() -> int:
    """How many replays run in parallel: one per processor, because each uses the run's number of threads, or one."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run_replays(
    specs: Sequence[ReplaySpec],
    *,
    workers: int | None = None,
    arithmetic: Arithmetic = NATIVE,
    on_done: Callable[[FinishedReplay], None] | None = None,
) -> list[FinishedReplay]:
    """Drive the replays of `specs` in separate processes that compute by `arithmetic`, `workers` of them at a time.
    Returns the finished replays in the same order.

    If the folder of a spec contains its result already, that is returned, so that an interrupted experiment continues.
    On Ctrl-C the processes are ended; what they have not finished starts again the next time.
    """
    report = on_done or _ignore
    finished: list[FinishedReplay | None] = [read_finished(spec) for spec in specs]
    waiting = [n for n, replay in enumerate(finished) if replay is None]
    for earlier in finished:
        if earlier is not None:
            report(earlier)
    server: _ForkServer | None = None
    running: dict[int, _RunningReplay] = {}
    limit = default_workers() if workers is None else workers
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                if server is None or server.ended:
                    server = _get_server(arithmetic)
                number = waiting.pop(0)
                running[number] = server.start(specs[number])
            if server is not None:
                server.receive()
            for number, replay in list(running.items()):
                if replay.exit_code is not None:
                    finished[number] = ended = running.pop(number).finish(replay.exit_code)
                    report(ended)
            time.sleep(0.02 if running else 0)
    finally:
        _abandon(running.values(), server)
    return [replay for replay in finished if replay is not None]


def _ignore(replay: FinishedReplay) -> None:
    pass


def _abandon(running: Collection[_RunningReplay], server: _ForkServer | None) -> None:
    """End replays that will not be waited for, and remove their temporary files."""
    if running and server is not None:
        server.end()
    for replay in running:
        replay.files.cleanup()


def read_finished(spec: ReplaySpec) -> FinishedReplay | None:
    """The replay of a spec that was carried out before; None if there is none, or if the folder contains another
    replay. Paths may be spelled differently: results may have been copied from another machine.
    """
    out = Path(spec.out)
    try:
        stored = read_spec(out / SPEC_FILE)
        same_run = Path(stored.run).resolve().name == Path(spec.run).resolve().name
        if not same_run or replace(stored, run=spec.run, out=spec.out) != spec:
            return None
        return FinishedReplay(spec, read_record(ReplayResult, out / RESULT_FILE, "the result of a replay"))
    except (OSError, UnreadableInput, ValueError):
        return None


class _RunningReplay:
    """A replay in progress. `exit_code` is set when it has ended, `reason` if the fork server ended it."""

    def __init__(self, spec: ReplaySpec) -> None:
        self.spec = spec
        self.files = tempfile.TemporaryDirectory(prefix="replay-")
        self.file, self.errors = (Path(self.files.name) / name for name in (SPEC_FILE, "stderr"))
        self.file.write_text(spec.for_child())
        self.errors.touch()
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.reason = ""

    def finish(self, exit_code: int) -> FinishedReplay:
        message = self.reason or _last_line(self.errors.read_bytes())
        self.files.cleanup()
        finished = read_finished(self.spec) if exit_code == 0 else None
        return finished or FinishedReplay(
            self.spec, None, message or f"the process ended with {exit_code} and printed nothing", exit_code
        )


class _ForkServer:
    """The process that forks replays. It has its own session: Ctrl-C reaches only us, and we end it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.settings = _server_settings(environment)
        self.ended, self._incomplete = False, b""
        self._replays: dict[str, _RunningReplay] = {}
        self._errors, name = tempfile.mkstemp()
        Path(name).unlink()
        command, pipe = [sys.executable, "-P", "-m", "postmortem.experiment.fork_server"], subprocess.PIPE
        self.process = subprocess.Popen(
            command, bufsize=0, env=environment, stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self._reports = self.process.stdin, self.process.stdout
        os.set_blocking(self._reports.fileno(), False)
        atexit.register(self.end)

    def start(self, spec: ReplaySpec) -> _RunningReplay:
        replay = _RunningReplay(spec)
        self._replays[str(replay.file)] = replay
        with suppress(BrokenPipeError):  # it has died, and `receive` will notice
            self._requests.write(json.dumps({"spec": str(replay.file), "errors": str(replay.errors)}).encode() + b"\n")
        return replay

    def receive(self) -> None:
        """Read its reports. If it has died, so have its replays."""
        try:
            data = os.read(self._reports.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            self.end()
        *lines, self._incomplete = (self._incomplete + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            replay = self._replays[report["spec"]]
            replay.pid, replay.exit_code = report["pid"], report.get("code")
            if replay.exit_code is not None:
                del self._replays[report["spec"]]

    def end(self) -> None:
        """End it, and so all its replays; also those of a server that died by itself."""
        if self.ended or self.settings[0] != os.getpid():
            return
        self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        self.process.kill()  # has no effect if it has ended
        exit_code = self.process.wait()
        self.ended = True
        with os.fdopen(self._errors, "rb") as errors:
            errors.seek(0)
            reason = (
                _last_line(errors.read())
                or f"the process that starts replays ended with {exit_code} and printed nothing"
            )
        for replay in self._replays.values():
            if exit_code != 0 and replay.pid is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(replay.pid, signal.SIGKILL)
            replay.exit_code, replay.reason = exit_code or 1, reason
        self._reports.close()
        atexit.unregister(self.end)


_servers: list[_ForkServer] = []
_PACKAGE = Path(__file__).parents[2]  # not the current directory: it may contain a stranger's run, with modules in it


def _server_settings(environment: dict[str, str]) -> tuple[int, str, Path, dict[str, str]]:
    """What all replays of one server have in common."""
    return os.getpid(), sys.executable, Path.cwd(), environment


def _get_server(arithmetic: Arithmetic) -> _ForkServer:
    """The running server, or a new one if it has died or the settings have changed."""
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1", **arithmetic.environ(os.environ)}
    if arithmetic.threads is not None:
        environment["OMP_NUM_THREADS"] = str(arithmetic.threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH", "")]))
    for server in _servers:
        if server.process.poll() is None and server.settings == _server_settings(environment):
            return server
        server.end()
    _servers[:] = [_ForkServer(environment)]
    return _servers[0]


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return plain(lines[-1], 500) if lines else ""
