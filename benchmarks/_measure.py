"""Measuring child processes, and putting a table where docs/benchmarks.md keeps it. Standard library only.

The peak memory that the kernel reports for a child is never below what its parent held when it was started, so the
script that measures must itself stay small: it imports nothing heavy and prepares its data in a child, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
POSTMORTEM = (sys.executable, "-m", "postmortem")


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds by the clock, seconds of CPU (user + system, all threads), peak bytes resident."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def cost(command: Sequence[str], **environment: str) -> Cost:
    """Run `command` in the repository's root and measure it; RuntimeError with its stderr where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{errors.read().decode()}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of one step of ru_maxrss
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def interleave(contenders: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """Each contender once per round, in turn, so that a machine that slows down slows all of them. The first, cold
    round is run and thrown away.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            say(f"round {number} of {rounds}: {name}" + (" (warm-up)" if number == 0 else ""))
            measured = contender()
            if number:
                costs[name].append(measured)
    return costs


def spread(values: Sequence[float], form: str = ".2f", unit: str = "") -> str:
    """Median (min to max)."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}}{unit} ({low:{form}}–{high:{form}})"


def machine() -> str:
    """One line that says what the figures were measured on, without naming the machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = found.group(1)
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, {platform.system()}"


def options(description: str, rounds: int) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds, or seeds (default {rounds})")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    return parser


def publish(block: str, text: str, *, write: bool) -> None:
    """Print `text`; with `write`, put it between the markers of `block` in docs/benchmarks.md."""
    print(text)
    if not write:
        return
    begin, end = f"<!-- begin {block} -->", f"<!-- end {block} -->"
    before, found, rest = PAGE.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{PAGE}: no block between {begin} and {end}")
    PAGE.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)
