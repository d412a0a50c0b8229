"""Starts replays by forking: `python -m postmortem.experiment.fork_server`. To import torch costs more than a replay.

It imports what every replay needs and no user's program, then forks a child for each line of JSON on stdin,
`{"order": file, "errors": file}`. Stdout says `{"order": file, "pid": pid}` when one is started, and the same with
its `code`, negative for a signal, when it has ended. When stdin ends, however its parent died, it ends what it started.
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

_PATIENCE_S = 5.0  # between asking a replay to end and killing it


def main(file: Path) -> int:
    """Carry out the order in `file`; 0, or the exit code of what kept it from being done, said on stderr."""
    from postmortem.replay.run_replay import replay
    from postmortem.replay.spec import read_spec

    try:
        replay(read_spec(file), provenance=False)
    except PostmortemError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def serve() -> None:
    """Fork a child for each line on stdin until it ends; then end all children. One thread: forks would lose others."""
    reports = os.dup(1)
    os.dup2(2, 1)  # a library's words at import are no report
    ready, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, str] = {}
    begun = b""

    def say(spec: str, **more: int) -> None:
        os.write(reports, json.dumps({"spec": spec, **more}).encode() + b"\n")

    try:
        while True:
            waiting, _, _ = select.select([0, ready], [], [])
            if ready in waiting:
                os.read(ready, 4096)
                for pid, code in _ended(running):
                    say(running.pop(pid), pid=pid, code=code)
            if 0 in waiting:
                got = os.read(0, 65536)
                if not got:
                    return
                *lines, begun = (begun + got).split(b"\n")
                for line in lines:
                    asked = json.loads(line)
                    pid = os.fork()
                    if pid == 0:
                        _be(Path(asked["spec"]), Path(asked["errors"]), (reports, ready, woken))
                    running[pid] = asked["spec"]
                    say(asked["spec"], pid=pid)
    finally:
        _end(running)


def _be(spec: Path, errors: Path, others: tuple[int, ...]) -> NoReturn:
    """The child: carry out `spec` as a process of its own session. `others` are descriptors of the fork server's."""
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for place, file, how in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY), (2, errors, os.O_WRONLY)):
            opened = os.open(file, how)
            os.dup2(opened, place)
            os.close(opened)
        for other in others:
            os.close(other)
        code = main(spec)
    except BaseException:  # whatever it is, it must not unwind into the fork server's loop
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _ended(running: dict[int, str]) -> list[tuple[int, int]]:
    """(pid, code) of the children that have ended. Helpers that one left behind, such as loaders of data, go too."""
    found: list[tuple[int, int]] = []
    for pid in running:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            found.append((pid, os.waitstatus_to_exitcode(status)))
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGTERM)
    return found


def _end(running: dict[int, str]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        for pid in running:
            for kill in (os.killpg, os.kill):  # the second for one that has not begun its session yet
                with suppress(ProcessLookupError, PermissionError):
                    kill(pid, how)
        until = time.monotonic() + _PATIENCE_S
        while running and time.monotonic() < until:
            for pid, _ in _ended(running):
                del running[pid]
            time.sleep(0.02)


if __name__ == "__main__":
    import postmortem.replay.run_replay as _driver  # before any fork; `main` finds it imported

    del _driver
    serve()
