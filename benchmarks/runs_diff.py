"""`runs-diff A B --json` on two runs of 1,000,000 steps × 12 columns, compared with TensorBoard only loading one.

TensorBoard's EventAccumulator is measured on a tenth of the steps, and its time is multiplied. The runs are equal for
four fifths of their length; after that, every column but the learning rate differs in its last bits.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from _measure import cost, cost_cells, interleave, machine, output, publish, say, speedup, spread
from draft_vs_tensorboard import COLUMNS, arguments_of, load_command

FASTER = 30  # times: what was asked for
DIVERGENCE_SHARE = 0.8  # of the run
RUNS_DIFF = (sys.executable, "-c", "from postmortem.cli.runs_diff import main; main()")

MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
import numpy as np
from _long_run import COLUMNS, values, write_events, write_run
folder, steps, event_steps, divergence = Path(sys.argv[1]), *map(int, sys.argv[2:])
rows = values(steps)
write_events(folder / "events", rows[:event_steps])
write_run(folder / "a", rows)
lr = COLUMNS.index("lr")
last_bits = 1 + 1e-9 * np.random.default_rng(3).standard_normal((steps - divergence, len(COLUMNS)))
last_bits[:, lr] = 1
rows[divergence:] *= last_bits
write_run(folder / "b", rows)
"""


def main() -> None:
    arguments = arguments_of(__doc__ or "")
    steps, scaled = arguments.steps, arguments.share
    event_steps, divergence = steps // scaled, int(steps * DIVERGENCE_SHARE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"writing two runs of {steps:,} steps × {COLUMNS} columns, and {event_steps:,} steps as events …")
        cost((sys.executable, "-c", MAKE, str(folder), str(steps), str(event_steps), str(divergence)))
        compare = (*RUNS_DIFF, str(folder / "a"), str(folder / "b"), "--json")
        _check(json.loads(output(compare)), divergence)
        load = load_command(folder / "events", event_steps)
        costs = interleave({"diff": lambda: cost(compare), "load": lambda: cost(load)}, arguments.rounds)
    diff, loader = costs["diff"], costs["load"]
    cpu_ratio, wall_ratio = speedup(loader, diff, scaled)
    publish(
        "runs-diff",
        f"""| process | CPU, s | wall, s | peak memory, MB |
| --- | --- | --- | --- |
| `runs-diff A B --json`, two runs of {steps:,} steps × {COLUMNS} | {cost_cells(diff)} |
| `EventAccumulator`, one run of {event_steps:,} steps × {COLUMNS}, as measured | {cost_cells(loader)} |

The loader's time × {scaled}, for all {steps:,} steps of the one run, over that of the diff: CPU
**{spread(cpu_ratio, ".0f", "×")}**, wall **{spread(wall_ratio, ".0f", "×")}**; at least {FASTER}× was asked for.
Medians (min–max) of {arguments.rounds} interleaved rounds on {machine()}. The diff finds the step from
which on the runs differ, to the bit, the incidents of both, and the gap with its noise; the loader only loads.""",
        write=arguments.write,
    )
    if min(statistics.median(cpu_ratio), statistics.median(wall_ratio)) < FASTER:
        raise SystemExit(f"a diff of two runs is less than {FASTER}× faster than loading one")


def _check(diff: dict[str, dict[str, object] | str], divergence: int) -> None:
    """Stop if the diff missed the step at which the runs diverge: then its speed means nothing."""
    first = diff["divergence"]
    step = first["step"] if isinstance(first, dict) else None
    say(f"verdict {diff['verdict']}; the runs diverge at step {step}, and were made to at {divergence}")
    if diff["verdict"] != "equivalent" or step != divergence:
        raise SystemExit("the diff does not report the divergence that was made")


if __name__ == "__main__":
    main()
