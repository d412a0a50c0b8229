"""What the benchmarks share: measuring child processes, and writing a table into docs/benchmarks.md.

Standard library only. The peak memory that the kernel reports for a child is at least the memory that its parent had
when it started the child. So the script that measures must itself stay small: it imports nothing heavy, and prepares
its data in a child process.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
POSTMORTEM = (sys.executable, "-m", "postmortem")
T = TypeVar("T")
_NOT_LIBRARIES = sys.stdlib_module_names | {"postmortem"}

# Runs `postmortem WORDS` and writes the names of the modules that it imported, in the order of their import. Modules
# that the interpreter had already loaded when it started are left out.
_LIST_MODULES = """
import sys
at_start = set(sys.modules)
from pathlib import Path
from postmortem.cli import main
target = Path(sys.argv.pop(1))
try:
    main()
finally:
    target.write_text("\\n".join(name for name in sys.modules if name not in at_start))
"""
_IMPORT_MODULES = """
import importlib, sys
from pathlib import Path
for name in Path(sys.argv[1]).read_text().split("\\n"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # a name that a library put into sys.modules for an object of its own
"""


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds by the clock, seconds of CPU (user + system, all threads), peak bytes resident."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def cost(command: Sequence[str], *, one_thread: bool = False) -> Cost:
    """Run `command` in the repository's root and measure it; RuntimeError with its stderr if it fails."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(one_thread), stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{errors.read().decode()}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of one step of ru_maxrss
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def output(command: Sequence[str], allowed: Sequence[int] = (0,), *, one_thread: bool = False) -> str:
    """The standard output of `command`, run in the repository's root; "" if its exit code is not 0 but is `allowed`.
    RuntimeError with its stderr for every other exit code.
    """
    process = subprocess.run(
        command, cwd=ROOT, env=_environment(one_thread), capture_output=True, text=True, check=False
    )
    if process.returncode not in allowed:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{process.stderr}")
    return process.stdout if process.returncode == 0 else ""


def _environment(one_thread: bool) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": "1"} if one_thread else {}
    return {**os.environ, "PYTHONPATH": str(ROOT), **threads}


def import_command(words: Sequence[str], scratch: Path, *, libraries_only: bool = False) -> tuple[list[str], list[str]]:
    """(a command that imports what `postmortem WORDS` imports and does nothing else, the names of these modules).

    The names are found by running `postmortem WORDS` once; the command reads them from the file `scratch`, in the order
    in which they were imported. `libraries_only` leaves out postmortem and the standard library.
    """
    cost((sys.executable, "-c", _LIST_MODULES, str(scratch), *words))
    modules = scratch.read_text().split("\n")
    if libraries_only:
        modules = [name for name in modules if name.partition(".")[0] not in _NOT_LIBRARIES]
        scratch.write_text("\n".join(modules))
    return [sys.executable, "-c", _IMPORT_MODULES, str(scratch)], modules


def rounds_of(count: int) -> Iterator[int]:
    """0 for the cold round that is thrown away, then 1 to `count`; reports each round as progress."""
    for number in range(count + 1):
        say(f"round {number} of {count}" + (" (warm-up)" if number == 0 else ""))
        yield number


def interleave(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """The results of each contender: one call per round, in turn, so that a machine that slows down slows all of them.
    The first, cold round is run and thrown away.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for number in rounds_of(rounds):
        for name, contender in contenders.items():
            result = contender()
            if number:
                results[name].append(result)
    return results


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high): the median of `values`, and its 95 % interval over 2,000 bootstrap samples."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def shown(figures: tuple[float, float, float], form: str = ".2f", unit: str = "") -> str:
    """Middle (low–high)."""
    middle, low, high = figures
    return f"{middle:{form}}{unit} ({low:{form}}–{high:{form}})"


def spread(values: Sequence[float], form: str = ".2f", unit: str = "") -> str:
    """Median (min–max)."""
    return shown((statistics.median(values), min(values), max(values)), form, unit)


def cost_cells(costs: Sequence[Cost]) -> str:
    """Three cells of a table row: CPU and wall in seconds, peak memory in MB."""
    peaks = [cost.peak_bytes / 1e6 for cost in costs]
    return f"{spread([c.cpu_s for c in costs])} | {spread([c.wall_s for c in costs])} | {spread(peaks, '.0f')}"


def speedup(slow: Sequence[Cost], fast: Sequence[Cost], scale: int = 1) -> tuple[list[float], list[float]]:
    """(CPU, wall): how many times the cost of `fast` each run of `slow` takes, after multiplying it by `scale`."""
    pairs = list(zip(slow, fast, strict=True))
    return [scale * a.cpu_s / b.cpu_s for a, b in pairs], [scale * a.wall_s / b.wall_s for a, b in pairs]


def machine() -> str:
    """One line that says what kind of machine the figures were measured on, without naming it."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (match := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = match.group(1)
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, {platform.system()}"


def options(description: str, rounds: int | None = None) -> argparse.ArgumentParser:
    """The options that every benchmark has; `--rounds` only where there is a default for it."""
    parser = argparse.ArgumentParser(description=description.partition("\n\n")[0])
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds, or seeds (default {rounds})")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    return parser


def publish(block: str, text: str, *, write: bool) -> None:
    """Print `text`; with `write`, also put it between the markers of `block` in docs/benchmarks.md."""
    print(text)
    if not write:
        return
    begin, end = f"<!-- begin {block} -->", f"<!-- end {block} -->"
    before, begin_mark, rest = PAGE.read_text().partition(begin)
    _, end_mark, after = rest.partition(end)
    if not (begin_mark and end_mark):
        raise SystemExit(f"{PAGE}: no block between {begin} and {end}")
    PAGE.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def say(text: str) -> None:
    """Print progress for people, on standard error."""
    print(text, file=sys.stderr, flush=True)
