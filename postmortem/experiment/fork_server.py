"""Starts replays by forking: `python -m postmortem.experiment.fork_server`, because importing torch is slow.

It imports what every replay needs, but no user's program, then forks a child for each line of JSON on stdin,
`{"spec": file, "errors": file}`. It writes `{"spec": file, "pid": pid}` to stdout when a child has started, and the
same with the child's exit `code`, negative for a signal, when it has ended. When stdin ends, for example because the
parent died, it ends all children.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from postmortem.errors import PostmortemError

_PATIENCE_S = 5.0  # from asking a replay to end until killing it


def main(file: Path) -> int:
    """Drive the replay of the spec in `file`. Returns 0, or the exit code of the error that it prints on stderr."""
    from postmortem.replay.run_replay import replay
    from postmortem.replay.spec import read_spec

    try:
        replay(read_spec(file), provenance=False)
    except PostmortemError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent process reads it
        return error.exit_code
    return 0


def serve() -> None:
    """Fork a child for each line on stdin until stdin ends; then end all children. It has one thread, because a fork
    would lose all others."""
    reports = os.dup(1)
    os.dup2(2, 1)  # what libraries print at import is no report
    ready, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, str] = {}
    incomplete = b""

    def report(spec: str, **fields: int) -> None:
        os.write(reports, json.dumps({"spec": spec, **fields}).encode() + b"\n")

    try:
        while True:
            waiting, _, _ = select.select([0, ready], [], [])
            if ready in waiting:
                os.read(ready, 4096)
                for pid, code in _reap_ended(running):
                    report(running.pop(pid), pid=pid, code=code)
            if 0 in waiting:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, incomplete = (incomplete + data).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    pid = os.fork()
                    if pid == 0:
                        _run_child(Path(request["spec"]), Path(request["errors"]), (reports, ready, wakeup))
                    running[pid] = request["spec"]
                    report(request["spec"], pid=pid)
    finally:
        _end_all(running)


def _run_child(spec: Path, errors: Path, server_descriptors: tuple[int, ...]) -> NoReturn:
    """In the child: drive the replay in its own session. `server_descriptors` belong to the fork server."""
    exit_code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor, file, mode in (
            (0, os.devnull, os.O_RDONLY),
            (1, os.devnull, os.O_WRONLY),
            (2, errors, os.O_WRONLY),
        ):
            opened = os.open(file, mode)
            os.dup2(opened, descriptor)
            os.close(opened)
        for server_descriptor in server_descriptors:
            os.close(server_descriptor)
        exit_code = main(spec)
    except BaseException:  # noqa: BLE001 - no exception may reach the fork server's loop
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(exit_code)


def _reap_ended(running: dict[int, str]) -> list[tuple[int, int]]:
    """(pid, exit code) of the children that have ended. Processes that they left behind, such as data loaders, end
    too."""
    ended: list[tuple[int, int]] = []
    for pid in running:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            ended.append((pid, os.waitstatus_to_exitcode(status)))
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGTERM)
    return ended


def _end_all(running: dict[int, str]) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        for pid in running:
            for kill in (os.killpg, os.kill):  # the second is for a child that has not started its session yet
                with suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal_number)
        deadline = time.monotonic() + _PATIENCE_S
        while running and time.monotonic() < deadline:
            for pid, _ in _reap_ended(running):
                del running[pid]
            time.sleep(0.02)


if __name__ == "__main__":
    import postmortem.replay.run_replay as _driver  # before any fork; `main` finds it imported

    del _driver
    serve()
