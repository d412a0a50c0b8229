"""Runs inputs in a child process that may crash, hang or swell without harm to the process that counts.

Linux only: memory is read from /proc.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import re
import resource
import select
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_PAGE = resource.getpagesize()
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_FRAME = re.compile(r'File ".*?/(postmortem/[\w/]+\.py)", line \d+ in (\w+)')
_BACKSTOP = 6 * 2**30  # bytes that an input may allocate, whoever of its processes does, before the kernel refuses


@dataclass(frozen=True)
class Limits:
    """What one input may take: seconds by the clock, without those in which the machine's processors were busy with
    others, and bytes of memory above those of the process before it."""

    seconds: float = 10.0
    growth: int = 900 * 2**20  # with the imports of a command, 1 GB


@dataclass(frozen=True)
class Ending:
    """How one input ended. problem: "", "hang", "memory" or "died with 6"; frame: where in the package, if there is a
    problem; result: what the task returned; peak: bytes above those before it; seconds as in `Limits`."""

    problem: str
    frame: str
    result: Any
    peak: int
    seconds: float


def run_each(indices: Sequence[int], task: Callable[[int], Any], limits: Limits) -> Iterator[tuple[int, Ending]]:
    """Call `task` with each index in forked children and yield how each ended, in order.

    One child takes as many as it survives. What hung is tried again alone, and then decides.
    """
    waiting = list(indices)
    while waiting:
        for index, ending in _one_child(tuple(waiting), task, limits):
            waiting.remove(index)
            yield from _one_child([index], task, limits) if ending.problem == "hang" else [(index, ending)]


def _one_child(indices: Sequence[int], task: Callable[[int], Any], limits: Limits) -> Iterator[tuple[int, Ending]]:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as crash, os.fdopen(reading, "rb", buffering=0) as messages:
        pid = os.fork()
        if pid == 0:
            messages.close()
            _child(indices, task, writing, crash)
        os.close(writing)
        try:
            yield from _watch(pid, messages, crash, limits)
        finally:
            _kill(pid)


def _watch(pid: int, messages: BinaryIO, crash: BinaryIO, limits: Limits) -> Iterator[tuple[int, Ending]]:
    """Yield the endings that the child reports, and the one that it cannot report because it is dead or killed."""
    buffer, index, base, peak, began = b"", None, 0, 0, 0.0
    while True:
        ready, _, _ = select.select([messages], [], [], 0.05)
        data = messages.read(65536) if ready else b""
        if index is not None:
            peak = max(peak, resident(pid) - base)
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "result" in message:
                yield message["index"], Ending("", "", message["result"], message["peak"], _clock(pid) - began)
                index = None
            else:
                index, base, peak, began = message["index"], message["base"], 0, _clock(pid)
        if ready and not data:  # it has ended
            if index is not None:
                seconds = _clock(pid) - began
                yield index, _ended(f"died with {_kill(pid)}", crash, peak, seconds)
            return
        if index is not None and not lines:
            seconds = _clock(pid) - began
            problem = "memory" if peak > limits.growth else "hang" if seconds > limits.seconds else ""
            if problem:
                os.kill(pid, signal.SIGABRT)  # faulthandler says where it is
                time.sleep(0.2)
                _kill(pid)
                yield index, _ended(problem, crash, peak, seconds)
                return


def _ended(problem: str, crash: BinaryIO, peak: int, seconds: float) -> Ending:
    crash.seek(0)
    frame = _FRAME.search(crash.read().decode(errors="replace"))
    return Ending(problem, ":".join(frame.groups()) if frame else "", None, peak, seconds)


def _clock(pid: int) -> float:
    """Seconds by the clock, less those that the process has waited for a processor."""
    try:
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except (OSError, IndexError):  # the process is gone, or the kernel does not count them
        waited = 0
    return time.monotonic() - waited / 1e9


def _kill(pid: int) -> int:
    """End the child and all that it started; the signal or exit code that it ended with, 0 if that is known already."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    try:
        status = os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0
    return abs(os.waitstatus_to_exitcode(status))


def _child(indices: Sequence[int], task: Callable[[int], Any], writing: int, crash: BinaryIO) -> None:
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        faulthandler.enable(crash)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + _BACKSTOP,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        for index in indices:
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            base = resident(os.getpid())
            _send(writing, index=index, base=base)
            result = task(index)
            _send(writing, index=index, result=result, peak=max(0, _status("VmHWM") - base))
        code = 0
    finally:
        os._exit(code)


def _send(writing: int, **message: Any) -> None:
    os.write(writing, json.dumps(message).encode() + b"\n")


def resident(pid: int) -> int:
    """Bytes of memory that a process has now; 0 if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _status(key: str) -> int:
    """Bytes of a line in /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024
