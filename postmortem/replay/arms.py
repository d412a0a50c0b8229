"""Independent replays as parallel processes of one machine. What is done already is not done again."""

from __future__ import annotations

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

from postmortem.diagnosis import build_from
from postmortem.errors import UnreadableInput
from postmortem.replay.branch import ORDER
from postmortem.replay.order import Order, read_order
from postmortem.replay.result import RESULT, Replayed
from postmortem.run.manifest import read_mapping
from postmortem.text import plain


@dataclass(frozen=True)
class Done:
    """One order carried out: its result, or the message of what kept it from being done."""

    order: Order
    result: Replayed | None
    error: str = ""
    exit_code: int = 0


def workers_here() -> int:
    """How many replays run side by side: one a processor, because each is pinned to the run's number of threads."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run_arms(
    orders: Sequence[Order],
    *,
    workers: int | None = None,
    threads: int = 1,
    on_done: Callable[[Done], None] | None = None,
) -> list[Done]:
    """Carry out `orders` in fresh processes, `workers` of them at a time; the results in their order.

    An order whose result lies in its place is taken from there, so that an interrupted experiment goes on. On Ctrl-C
    the processes are ended, and what they had not finished is done anew the next time.
    """
    found: list[Done | None] = [finished(order) for order in orders]
    waiting = [n for n, done in enumerate(found) if done is None]
    for done in found:
        if done is not None and on_done is not None:
            on_done(done)
    running: dict[int, _Process] = {}
    limit = workers_here() if workers is None else workers
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                number = waiting.pop(0)
                running[number] = _Process(orders[number], threads)
            for number, process in list(running.items()):
                done = process.done()
                if done is not None:
                    found[number] = done
                    del running[number]
                    if on_done is not None:
                        on_done(done)
            time.sleep(0.02 if running else 0)
    finally:
        for process in running.values():
            process.end()
    return [done for done in found if done is not None]


def finished(order: Order) -> Done | None:
    """The result of an order that was carried out before; None where it was not, or another lies in its place. However
    the two spelled their paths: what was driven elsewhere may have been brought here."""
    out = Path(order.out)
    try:
        lies = read_order(out / ORDER)
        same_run = Path(lies.run).resolve().name == Path(order.run).resolve().name
        if not same_run or replace(lies, run=order.run, out=order.out) != order:
            return None
        return Done(order, build_from(Replayed, read_mapping(out / RESULT)))
    except (OSError, UnreadableInput, TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


class _Process:
    def __init__(self, order: Order, threads: int) -> None:
        self._order = order
        self._files = tempfile.TemporaryDirectory(prefix="replay-")
        folder = Path(self._files.name)
        (folder / ORDER).write_text(order.to_json())
        self._errors = folder / "stderr"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")])),
        }
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "postmortem.replay._arm", str(folder / ORDER)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C reaches us, and we end it
            )

    def done(self) -> Done | None:
        code = self._process.poll()
        if code is None:
            return None
        said = [line for line in self._errors.read_text(errors="replace").splitlines() if line.strip()]
        self._files.cleanup()
        done = finished(self._order) if code == 0 else None
        if done is not None:
            return done
        why = plain(said[-1], 500) if said else f"the process ended with {code} and said nothing"
        return Done(self._order, None, why, code)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._files.cleanup()
