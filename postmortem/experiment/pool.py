"""Independent replays as parallel processes, forked by `fork_server`. What is done is not done again."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from postmortem.arithmetic import OWN, Arithmetic
from postmortem.errors import UnreadableInput
from postmortem.jsonio import build_from
from postmortem.replay.branch import SPEC_FILE
from postmortem.replay.result import RESULT_FILE, ReplayResult
from postmortem.replay.spec import ReplaySpec, read_spec
from postmortem.run.manifest import read_mapping
from postmortem.text import plain


@dataclass(frozen=True)
class ReplayOutcome:
    """One order carried out: its result, or the message of what kept it from being done."""

    spec: ReplaySpec
    result: ReplayResult | None
    error: str = ""
    exit_code: int = 0


def workers_here() -> int:
    """How many replays run side by side: one a processor, because each has the run's number of threads, else one."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run_replays(
    specs: Sequence[ReplaySpec],
    *,
    workers: int | None = None,
    arithmetic: Arithmetic = OWN,
    on_done: Callable[[ReplayOutcome], None] | None = None,
) -> list[ReplayOutcome]:
    """Carry out `specs` in processes of their own that compute by `arithmetic`, `workers` of them at a time; the
    results in their order.

    An order whose result lies in its place is taken from there, so that an interrupted experiment goes on. On Ctrl-C
    the processes are ended, and what they had not finished is done anew the next time.
    """
    found: list[ReplayOutcome | None] = [finished(spec) for spec in specs]
    waiting = [n for n, done in enumerate(found) if done is None]
    for done in found:
        if done is not None and on_done is not None:
            on_done(done)
    server: _ForkServer | None = None
    running: dict[int, _Arm] = {}
    limit = workers_here() if workers is None else workers
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                if server is None or server.ended:
                    server = _fork_server(arithmetic)
                number = waiting.pop(0)
                running[number] = server.begin(specs[number])
            if server is not None:
                server.listen()
            for number, arm in list(running.items()):
                if arm.code is not None:
                    found[number] = done = running.pop(number).done(arm.code)
                    if on_done is not None:
                        on_done(done)
            time.sleep(0.02 if running else 0)
    finally:
        if running and server is not None:
            server.end()
        for arm in running.values():
            arm.files.cleanup()
    return [done for done in found if done is not None]


def finished(spec: ReplaySpec) -> ReplayOutcome | None:
    """The result of an order that was carried out before; None where it was not, or another lies in its place. However
    the two spelled their paths: what was driven elsewhere may have been brought here."""
    out = Path(spec.out)
    try:
        lies = read_spec(out / SPEC_FILE)
        same_run = Path(lies.run).resolve().name == Path(spec.run).resolve().name
        if not same_run or replace(lies, run=spec.run, out=spec.out) != spec:
            return None
        return ReplayOutcome(spec, build_from(ReplayResult, read_mapping(out / RESULT_FILE)))
    except (OSError, UnreadableInput, TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


class _Arm:
    """One order under way. `code` is set when it has ended, `why` where that was not its own doing."""

    def __init__(self, spec: ReplaySpec) -> None:
        self.spec = spec
        self.files = tempfile.TemporaryDirectory(prefix="replay-")
        self.file, self.errors = (Path(self.files.name) / name for name in (SPEC_FILE, "stderr"))
        self.file.write_text(spec.to_json())
        self.errors.touch()
        self.pid: int | None = None
        self.code: int | None = None
        self.why = ""

    def done(self, code: int) -> ReplayOutcome:
        said = self.why or _last_line(self.errors.read_bytes())
        self.files.cleanup()
        done = finished(self.spec) if code == 0 else None
        return done or ReplayOutcome(self.spec, None, said or f"the process ended with {code} and said nothing", code)


class _ForkServer:
    """The process that arms are forked from, in a session of its own: Ctrl-C reaches us, and we end it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.common = _common(environment)
        self.ended, self._begun = False, b""
        self._arms: dict[str, _Arm] = {}
        self._errors, name = tempfile.mkstemp()
        Path(name).unlink()
        words, pipe = [sys.executable, "-P", "-m", "postmortem.experiment.fork_server"], subprocess.PIPE
        self.process = subprocess.Popen(
            words, bufsize=0, env=environment, stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._asked, self._reports = self.process.stdin, self.process.stdout
        os.set_blocking(self._reports.fileno(), False)
        atexit.register(self.end)

    def begin(self, spec: ReplaySpec) -> _Arm:
        arm = _Arm(spec)
        self._arms[str(arm.file)] = arm
        with suppress(BrokenPipeError):  # it has died, and `listen` will find out
            self._asked.write(json.dumps({"spec": str(arm.file), "errors": str(arm.errors)}).encode() + b"\n")
        return arm

    def listen(self) -> None:
        """Take in what it reports; where it has died, so have its arms."""
        try:
            got = os.read(self._reports.fileno(), 65536)
        except BlockingIOError:
            return
        if not got:
            self.end()
        *lines, self._begun = (self._begun + got).split(b"\n")
        for line in lines:
            told = json.loads(line)
            arm = self._arms[told["spec"]]
            arm.pid, arm.code = told["pid"], told.get("code")
            if arm.code is not None:
                del self._arms[told["spec"]]

    def end(self) -> None:
        """End it, and by that every arm it has; those of one that died by itself as well."""
        if self.ended or self.common[0] != os.getpid():
            return
        self._asked.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        self.process.kill()  # nothing, where it has ended
        code = self.process.wait()
        self.ended = True
        with os.fdopen(self._errors, "rb") as errors:
            errors.seek(0)
            why = _last_line(errors.read()) or f"the process that starts replays ended with {code} and said nothing"
        for arm in self._arms.values():
            if code != 0 and arm.pid is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(arm.pid, signal.SIGKILL)
            arm.code, arm.why = code or 1, why
        self._reports.close()
        atexit.unregister(self.end)


_at_hand: list[_ForkServer] = []
_PACKAGE = Path(__file__).parents[2]  # not this directory: a stranger's run may lie here, with modules in it


def _common(environment: dict[str, str]) -> tuple[int, str, Path, dict[str, str]]:
    """What all arms of one server have in common."""
    return os.getpid(), sys.executable, Path.cwd(), environment


def _fork_server(arithmetic: Arithmetic) -> _ForkServer:
    """The one at hand; another where it has died or what arms have in common is another by now."""
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1", **arithmetic.environ(os.environ)}
    if arithmetic.threads is not None:
        environment["OMP_NUM_THREADS"] = str(arithmetic.threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH", "")]))
    for server in _at_hand:
        if server.process.poll() is None and server.common == _common(environment):
            return server
        server.end()
    _at_hand[:] = [_ForkServer(environment)]
    return _at_hand[0]


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return plain(lines[-1], 500) if lines else ""
