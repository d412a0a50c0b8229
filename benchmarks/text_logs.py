"""What reading a large text log takes: mostly other lines, metric lines only, a long preamble, and what is no text.

Each file is read in a process of its own. Its speed is by the CPU time of the reader alone; its memory is the peak
beyond what the imports take, which a process that reads ten lines shows.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _measure import ROOT, cost, machine, options, publish, say

GIGABYTE = 10**9
OTHER = (
    "2024-10-12 10:00:01,123 INFO worker {a} allocated {b} MiB for tensor parallel group 3; entries already cached\n",
    "2024-10-12 10:00:01,456 DEBUG dataloader worker {a}: shard {b} opened, next sample {c}\n",
    "WARNING:root:the scheduler was called before the optimizer, {b} seconds after the last checkpoint\n",
)
METRICS = (
    "2024-10-12 10:00:02,001 step {step}/9000000 | loss: {c} | grad_norm: 0.{b} | lr: 3.000e-04 | dt: 1{a}.25ms | "
    "tok/sec: {b},{b}\n"
)
READ = """
import json, resource, sys, time
from pathlib import Path
from postmortem.sources import text_log
start = time.process_time()
table = text_log.read_table(Path(sys.argv[1]), frozenset())
spent = time.process_time() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([spent, peak, table.rows, table.rows * len(table.names) * 8]))
"""


def lines(share: float, size: int) -> Iterator[bytes]:
    """Lines of about `size` bytes in all, of which this share has metrics, in blocks."""
    draw = random.Random(0)
    step = written = 0
    while written < size:
        block: list[str] = []
        for _ in range(10_000):
            numbers = {"a": draw.randint(10, 99), "b": draw.randint(100, 999), "c": f"{draw.uniform(1, 9):.6f}"}
            step += (metric := draw.random() < share)
            block.append((METRICS if metric else draw.choice(OTHER)).format(step=step, **numbers))
        data = "".join(block).encode()
        written += len(data)
        yield data


def write(path: Path, share: float, size: int, preamble: bytes = b"") -> Path:
    """A log at `path`."""
    with path.open("wb") as file:
        file.write(preamble)
        file.writelines(lines(share, size))
    return path


def read(path: Path) -> tuple[float, int, int, int]:
    """(seconds of CPU, peak bytes of the process, rows, bytes of its arrays) of reading the log in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True, env=environment
    )
    spent, peak, rows, arrays = map(float, done.stdout.strip("[]\n").split(","))
    return spent, int(peak), int(rows), int(arrays)


def refusal_s(path: Path) -> float:
    """Seconds by the clock until `draft` has refused the file, less those until it has refused an empty one."""
    empty = path.with_name("empty.log")
    empty.write_bytes(b"")
    words = [sys.executable, "-m", "postmortem", "draft"]

    def clock(target: Path) -> float:
        refused = f"import subprocess, sys; sys.exit(subprocess.run({[*words, str(target)]!r}).returncode != 3)"
        return cost((sys.executable, "-c", refused)).wall_s

    return clock(path) - clock(empty)


def main() -> None:
    arguments = options(__doc__ or "", rounds=3).parse_args()
    table = [
        "| log | rows | read, MB/s | memory beyond the imports, MB | … beyond its arrays |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, imports, _, _ = read(write(folder / "small.log", 1.0, 1))
        preamble = b"    def forward(self, x):\n        return self.loss(x)\n" * 100_000
        for title, share, size, before in (
            ("1 GB, one line in ten has metrics", 0.1, GIGABYTE, b""),
            ("1 GB, metric lines only", 1.0, GIGABYTE, b""),
            ("metric lines after 5 MB of code", 1.0, 10**6, preamble),
        ):
            say(title)
            log = write(folder / "train.log", share, size, before)
            bytes_read = log.stat().st_size
            spent, peak, rows, arrays = min(read(log) for _ in range(arguments.rounds))
            more = peak - imports
            table.append(
                f"| {title} | {rows:,} | **{bytes_read / spent / 1e6:.0f}** | {more / 1e6:.0f} | "
                f"{max(more - arrays, 0) / 1e6:.0f} |"
            )
        say("2 GB of random bytes")
        log = folder / "train.log"
        with log.open("wb") as file:
            for _ in range(2_000):
                file.write(os.urandom(10**6))
        refused = min(refusal_s(log) for _ in range(arguments.rounds))
    publish(
        "text-logs",
        "\n".join(table)
        + f"""

Asked for: 60 MB/s within 300 MB for the first, 20 MB/s and at most 200 MB beyond its arrays for the second. 2 GB of
random bytes named `train.log` are refused {max(refused, 0):.2f} s later than an empty file; one second was asked for.
Least CPU time of {arguments.rounds} runs each, on {machine()}.""",
        write=arguments.write,
    )


if __name__ == "__main__":
    main()
