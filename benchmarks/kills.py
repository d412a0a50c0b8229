"""Kill -9 over everything that writes, and Ctrl-C over the commands, at moments that a seed chooses.

Each kill has a folder of its own. Half of the moments are uniform over the duration of an undisturbed run, the others
follow a file that appears or grows, by up to 10 ms. After the kill, what was promised has to be there and whole; then
the same command runs again, has to end with 0, and to leave what an undisturbed run leaves, and nothing else. An
interrupt has to end with 130 and at most one line on stderr, and may leave no stage behind.

Resumable: the row of each (case, seed) is kept in benchmarks/results/kills.parquet, and made again only if the package
has changed since. The folders of failures stay in benchmarks/results/runs/kills (not in git).
"""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _kill_cases import (
    CASES,
    CLEAN,
    RECOVERED,
    SAMPLES,
    SPIKE,
    Case,
    Reference,
    is_litter,
    is_released_lock,
    problems_after,
    snapshot,
)
from _measure import POSTMORTEM, ROOT, machine, options, publish, say
from _results import RUNS, Results, code_hash

START_UP_S = 0.4
_DELAY_S = 0.01
_TRIES = 8  # for a kill that came too late
_TEARDOWN_S = 0.2  # from the last line of a process until the system has removed it: no signal can reach it any more
_SCRIPTS = {
    "postmortem": "import sys\nfrom postmortem.__main__ import main\nsys.exit(main())",
    "runs-diff": "import sys\nfrom postmortem.__main__ import runs_diff\nsys.exit(runs_diff())",
}
"""What the installed console scripts contain."""
_INTERRUPTED = (
    (*POSTMORTEM, "draft", SPIKE),
    (sys.executable, "-c", _SCRIPTS["postmortem"], "draft", SPIKE),
    (sys.executable, "-c", _SCRIPTS["runs-diff"], CLEAN, RECOVERED, "--out", "out"),
    (*POSTMORTEM, "replay", SPIKE, "--until", "310"),
    (*POSTMORTEM, "probe", SPIKE, "312:313"),
    (*POSTMORTEM, "prove", SPIKE),
)
INTERRUPTS = {"interrupt at start": 50, "interrupt at work": 50}
EARLY = (
    "before Python handles signals: died of SIGINT, no line",
    "in Python's own start: its traceback",
    "while Python opens our first module: its traceback",
)
"""What comes before the first line that can handle it, about 15 ms after the start: nothing here can change it."""
_LATER_MODULES = re.compile(rf"{re.escape(str(ROOT / 'postmortem'))}/(?!__init__\.py|__main__\.py)")


@dataclass(frozen=True)
class Row:
    """One kill or interrupt: its moment in seconds after the start, what was aimed at ("time", "change", or the
    command), the exit code (negative: a signal), and what did not hold ("" if all did)."""

    fault: str
    seed: int
    code: str
    moment_s: float
    aim: str
    ended: int
    lines: int
    problems: str


def environment() -> dict[str, str]:
    """One thread, and this checkout's package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class _Watch:
    """Counts the changes in a folder: a name that appears, or a file that grows."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, self._look(folder)
        self.changes = 0

    def look(self) -> int:
        now = self._look(self._folder)
        self.changes += sum(self._known.get(name) != size for name, size in now.items())
        self._known = now
        return self.changes

    def _look(self, folder: Path) -> dict[str, int]:
        sizes: dict[str, int] = {}
        try:
            for entry in os.scandir(folder):
                is_folder = entry.is_dir(follow_symlinks=False)
                sizes[entry.path] = -1 if is_folder else entry.stat(follow_symlinks=False).st_size
                if is_folder and not entry.name.endswith(".dcp"):
                    sizes |= self._look(Path(entry.path))
        except OSError:  # it was removed meanwhile
            pass
        return sizes


def _start(folder: Path, commands: Sequence[Sequence[str]]) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = []
    for number, command in enumerate(commands):
        with (folder.parent / f"{number}.out").open("wb") as out, (folder.parent / f"{number}.err").open("wb") as err:
            processes.append(
                subprocess.Popen(
                    command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err
                )
            )
    return processes


def _outputs(folder: Path, count: int) -> tuple[str, ...]:
    return tuple((folder.parent / f"{n}.out").read_text() for n in range(count))


_lock = threading.Lock()


@functools.cache
def reference(case: Case) -> Reference:
    """An undisturbed run of `case`."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        folder.mkdir()
        case.prepare(folder)
        watch, start = _Watch(folder), time.monotonic()
        processes = _start(folder, case.commands())
        while any(process.poll() is None for process in processes):
            watch.look()
            time.sleep(0.002)
        seconds = time.monotonic() - start
        if any(process.returncode for process in processes):
            raise RuntimeError(f"{case.name}: {(folder.parent / '0.err').read_text()}")
        lessons = folder / "lessons.md"
        return Reference(
            seconds,
            watch.look(),
            snapshot(folder),
            _outputs(folder, len(processes)),
            tuple(sorted(lessons.read_text().splitlines())) if lessons.exists() else (),
        )


def _kill(folder: Path, case: Case, aim: str, dice: random.Random, reach: float) -> tuple[float, bool]:
    """Start the case and kill it: (seconds from start to kill, whether a process was killed)."""
    expected = reference_of(case)
    limit = dice.uniform(0, reach * expected.seconds)
    change = dice.randint(1, max(1, round(reach * expected.changes)))
    delay = dice.uniform(0, _DELAY_S)
    victims = dice.choice((slice(None), slice(0, 1)))
    watch, start = _Watch(folder), time.monotonic()
    processes = _start(folder, case.commands())
    if aim == "time":
        time.sleep(limit)
    else:
        while watch.look() < change and any(process.poll() is None for process in processes):
            time.sleep(0.001)
        time.sleep(delay)
    for process in processes[victims]:
        process.kill()
    moment = time.monotonic() - start
    killed = [process.wait() == -signal.SIGKILL for process in processes]
    return moment, any(killed)


def reference_of(case: Case) -> Reference:
    """`reference`, made once even if two threads ask for it."""
    with _lock:
        return reference(case)


def kill(case: Case, seed: int, code: str, place: Path | None = None) -> Row:
    """One kill of `case`, its checks, and the same command again, in the folder `place`."""
    dice = random.Random(f"{case.name} {seed}")
    aim = "time" if seed % 2 else "change"
    place = place or RUNS / "kills" / f"{case.name}-{seed}"
    for attempt in range(_TRIES):
        shutil.rmtree(place, ignore_errors=True)
        folder = place / "work"
        folder.mkdir(parents=True)
        case.prepare(folder)
        moment, killed = _kill(folder, case, aim, dice, 1 - attempt / _TRIES)
        if killed:
            break
    problems = list(case.check(folder, time.time() - 0.02))
    again = _start(folder, case.commands())
    for process in again:
        process.wait()
    ended = max((process.returncode for process in again), key=abs)
    if ended:
        problems.append(f"again: exit {ended}: {(place / '0.err').read_text().strip()[-200:]}")
    problems += problems_after(case, folder, _outputs(folder, len(again)), reference_of(case))
    if not problems:
        shutil.rmtree(place)
    say(f"{case.name} {seed}: {aim}, {moment:.2f} s: {'; '.join(problems) or 'holds'}")
    return Row(case.name, seed, code, round(moment, 4), aim, -9 if killed else 0, 0, "; ".join(problems))


def interrupt(name: str, seed: int, code: str, place: Path | None = None) -> Row:
    """One interrupt of a command: in the first seconds, or in the rest of its life."""
    dice = random.Random(f"{name} {seed}")
    words = _INTERRUPTED[seed % len(_INTERRUPTED)]
    place = place or RUNS / "kills" / f"{name.replace(' ', '-')}-{seed}"
    for attempt in range(_TRIES):
        shutil.rmtree(place, ignore_errors=True)
        folder = place / "work"
        folder.mkdir(parents=True)
        for run in (SPIKE, CLEAN, RECOVERED):
            shutil.copytree(SAMPLES / run, folder / run, symlinks=True)
        before = snapshot(folder)
        at_start = name.endswith("start")
        moment = dice.uniform(0, START_UP_S) if at_start else dice.uniform(START_UP_S, _durations(words))
        (process,) = _start(folder, [words])
        time.sleep(moment * (1 - attempt / _TRIES))
        alive = process.poll() is None
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        ended = process.wait()
        if alive and (ended or time.monotonic() - sent > _TEARDOWN_S):
            break
    text = (place / "0.err").read_text()
    problems = [] if ended == 130 else [_kind_of_end(ended, text)]
    if ended == 130 and len(text.splitlines()) > 1:
        problems.append(f"{len(text.splitlines())} lines: {text.splitlines()[0][:80]}")
    new = snapshot(folder).keys() - before.keys()
    litter = sorted(name for name in new if is_litter(name) and not is_released_lock(name))
    problems += [f"litter: {name}" for name in litter]
    if not problems:
        shutil.rmtree(place)
    shown = " ".join(words[2:] if "-m" in words else ("script", *words[3:]))
    say(f"{name} {seed}: {shown}, {moment:.3f} s: {'; '.join(problems) or 'holds'}")
    return Row(name, seed, code, round(moment, 4), shown, ended, len(text.splitlines()), "; ".join(problems))


def _kind_of_end(ended: int, text: str) -> str:
    if ended == -signal.SIGINT and not text:
        return EARLY[0]
    if "KeyboardInterrupt" in text and str(ROOT / "postmortem") not in text:
        return EARLY[1]
    if "KeyboardInterrupt" in text and not _LATER_MODULES.search(text) and "in main" not in text:
        return EARLY[2]
    return f"exit {ended}: {text.strip()[-200:]}"


@functools.cache
def _durations(words: Sequence[str]) -> float:
    """Seconds of an undisturbed run of a command."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        folder.mkdir()
        for run in (SPIKE, CLEAN, RECOVERED):
            shutil.copytree(SAMPLES / run, folder / run, symlinks=True)
        start = time.monotonic()
        (process,) = _start(folder, [words])
        if process.wait():
            raise RuntimeError((folder.parent / "0.err").read_text())
        return time.monotonic() - start


def make(fault: str, seed: int, code: str) -> Row:
    """One row."""
    if fault in INTERRUPTS:
        return interrupt(fault, seed, code)
    return kill(next(case for case in CASES if case.name == fault), seed, code)


def table(rows: Sequence[Row]) -> str:
    """One line per writer, then the interrupts."""
    lines = ["| killed | kills | all held | what did not |", "| --- | --- | --- | --- |"]
    lines += [_line(case.name, [row for row in rows if row.fault == case.name]) for case in CASES]
    lines.append(_line("**all**", [row for row in rows if row.fault not in INTERRUPTS]))
    lines += ["", "| interrupted | interrupts | 130, at most one line | otherwise |", "| --- | --- | --- | --- |"]
    lines += [_line(name, [row for row in rows if row.fault == name]) for name in INTERRUPTS]
    return "\n".join(lines)


def _line(title: str, rows: Sequence[Row]) -> str:
    kinds = Counter(row.problems.partition("; ")[0][:90] for row in rows if row.problems)
    other = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common()) or "–"
    return f"| {title} | {len(rows)} | {sum(not row.problems for row in rows)} | {other.replace('|', '/')} |"


def main() -> None:
    counts = {**INTERRUPTS, **{case.name: case.kills for case in CASES}}
    parser = options(__doc__ or "")
    parser.add_argument("--case", action="append", choices=counts, help="only this case (repeatable)")
    parser.add_argument("--most", type=int, help="at most so many per case")
    parser.add_argument("--jobs", type=int, default=2, help="kills at a time (default 2)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that it is ignored
    most = arguments.most or max(counts.values())
    chosen = {name: min(counts[name], most) for name in arguments.case or counts}
    keys = [(name, seed) for seed in range(max(chosen.values())) for name, count in chosen.items() if seed < count]
    code = code_hash(["."])
    rows = Results("kills", Row).complete(keys, make, code, jobs=arguments.jobs, title="kills")
    shown = [rows[key] for key in keys]
    where = f"On {machine()}, {arguments.jobs} at a time; an interrupt at start comes in the first {START_UP_S} s."
    publish("kills", f"{table(shown)}\n\n{where}", write=arguments.write)
    if any(row.problems for row in shown if row.fault not in INTERRUPTS):
        sys.exit(1)


if __name__ == "__main__":
    main()
