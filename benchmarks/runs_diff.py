"""`runs-diff A B --json` of two runs of 1,000,000 steps × 12 columns, against TensorBoard's EventAccumulator merely
loading one of them (measured on a tenth of it and scaled).

The runs are equal for four fifths of their length, and then differ in the last bits of every column but the rate.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import ROOT, Cost, cost, interleave, machine, options, publish, say, spread
from draft_vs_tensorboard import COLUMNS, LOAD_EVENTS

FASTER = 30  # times: what was asked for
PARTED_SHARE = 0.8  # of the run
RUNS_DIFF = (sys.executable, "-c", "from postmortem.cli.runs_diff import main; main()")

MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
import numpy as np
from _long_run import COLUMNS, values, write_events, write_run
folder, steps, event_steps, parted = Path(sys.argv[1]), *map(int, sys.argv[2:])
rows = values(steps)
write_events(folder / "events", rows[:event_steps])
write_run(folder / "a", rows)
lr = COLUMNS.index("lr")
last_bits = 1 + 1e-9 * np.random.default_rng(3).standard_normal((steps - parted, len(COLUMNS)))
last_bits[:, lr] = 1
rows[parted:] *= last_bits
write_run(folder / "b", rows)
"""


def main() -> None:
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--share", type=int, default=10, help="measure the loader on one in so many steps (default 10)")
    arguments = parser.parse_args()
    steps, scaled = arguments.steps, arguments.share
    event_steps, parted = steps // scaled, int(steps * PARTED_SHARE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"writing two runs of {steps:,} steps × {COLUMNS} columns, and {event_steps:,} steps as events …")
        cost((sys.executable, "-c", MAKE, str(folder), str(steps), str(event_steps), str(parted)))
        compare = (*RUNS_DIFF, str(folder / "a"), str(folder / "b"), "--json")
        first = subprocess.run(compare, cwd=ROOT, check=True, capture_output=True)
        _check(json.loads(first.stdout), parted)
        load = (sys.executable, "-c", LOAD_EVENTS, str(folder / "events"), str(event_steps * COLUMNS))
        costs = interleave({"diff": lambda: cost(compare), "load": lambda: cost(load)}, arguments.rounds)
    diff, loader = costs["diff"], costs["load"]
    cpu_ratio = [scaled * b.cpu_s / a.cpu_s for a, b in zip(diff, loader, strict=True)]
    wall_ratio = [scaled * b.wall_s / a.wall_s for a, b in zip(diff, loader, strict=True)]
    publish(
        "runs-diff",
        f"""| process | CPU, s | wall, s | peak memory, MB |
| --- | --- | --- | --- |
| `runs-diff A B --json`, two runs of {steps:,} steps × {COLUMNS} | {_row(diff)} |
| `EventAccumulator`, one run of {event_steps:,} steps × {COLUMNS}, as measured | {_row(loader)} |

The loader's time × {scaled}, for all {steps:,} steps of the one run, over that of the diff: CPU
**{spread(cpu_ratio, ".0f", "×")}**, wall **{spread(wall_ratio, ".0f", "×")}**; at least {FASTER}× was asked for.
Medians (min–max) of {arguments.rounds} interleaved rounds on {machine()}. The diff finds the step at which the runs
part, to the bit, incidents of both, and the gap with its noise; the loader only loads.""",
        write=arguments.write,
    )
    if min(statistics.median(cpu_ratio), statistics.median(wall_ratio)) < FASTER:
        raise SystemExit(f"a diff of two runs is less than {FASTER}× faster than loading one")


def _check(found: dict[str, dict[str, object] | str], parted: int) -> None:
    """A diff that missed the step at which the runs part would be fast for nothing."""
    where = found["divergence"]
    step = where["step"] if isinstance(where, dict) else None
    say(f"verdict {found['verdict']}; the runs part at step {step}, as made at {parted}")
    if found["verdict"] != "equivalent" or step != parted:
        raise SystemExit("the diff is not what was made")


def _row(costs: list[Cost]) -> str:
    return (
        f"{spread([c.cpu_s for c in costs])} | {spread([c.wall_s for c in costs])} "
        f"| {spread([c.peak_bytes / 1e6 for c in costs], '.0f')}"
    )


if __name__ == "__main__":
    main()
