"""`postmortem draft --json` on 1,000,000 steps × 12 columns, against TensorBoard's EventAccumulator merely loading the
same scalars (measured on a tenth of them and scaled), and the memory that drafting takes above its imports.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import POSTMORTEM, ROOT, Cost, cost, interleave, machine, options, publish, say, spread

COLUMNS = 12
FASTER = 60  # times: what was asked for
MEMORY = 4  # times the bytes of the columns as float64: what was asked for
ONSET_SHARE = 0.6137  # of the run, as _long_run.py plants it
ONSET_ERROR = 1  # steps: the gradient is hit one step before the loss shows it

LOAD_EVENTS = """
import sys
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
accumulator = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0})
accumulator.Reload()
assert sum(len(accumulator.Scalars(tag)) for tag in accumulator.Tags()["scalars"]) == int(sys.argv[2])
"""

# Whatever modules a draft ends with, imported by name in a process that does nothing else.
LIST_MODULES = """
import sys
from pathlib import Path
from postmortem.cli import main
target = Path(sys.argv.pop(1))
try:
    main()
finally:
    target.write_text("\\n".join(name for name in sys.modules if not name.startswith("__")))
"""
IMPORT_MODULES = """
import importlib, sys
from pathlib import Path
for name in Path(sys.argv[1]).read_text().split("\\n"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # a name that a library put there for an object of its own
"""


def main() -> None:
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--share", type=int, default=10, help="measure the loader on one in so many steps (default 10)")
    arguments = parser.parse_args()
    steps, event_steps = arguments.steps, arguments.steps // arguments.share
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, modules = folder / "run", folder / "modules"
        say(f"writing {steps:,} steps × {COLUMNS} columns, and {event_steps:,} of them as events …")
        cost((sys.executable, "benchmarks/_long_run.py", str(folder), str(steps), str(event_steps)))
        size, event_size = _bytes(run), _bytes(folder / "events")
        arrangement = ("draft", str(run), "--json")
        first = subprocess.run((*POSTMORTEM, *arrangement), cwd=ROOT, check=True, capture_output=True)
        _check(json.loads(first.stdout), int(steps * ONSET_SHARE))
        cost((sys.executable, "-c", LIST_MODULES, str(modules), *arrangement))
        load = (sys.executable, "-c", LOAD_EVENTS, str(folder / "events"), str(event_steps * COLUMNS))
        costs = interleave(
            {
                "draft": lambda: cost((*POSTMORTEM, *arrangement)),
                "imports": lambda: cost((sys.executable, "-c", IMPORT_MODULES, str(modules))),
                "load": lambda: cost(load),
            },
            arguments.rounds,
        )
    draft, imports, loader = costs["draft"], costs["imports"], costs["load"]
    scaled = arguments.share
    cpu_ratio = [scaled * b.cpu_s / a.cpu_s for a, b in zip(draft, loader, strict=True)]
    wall_ratio = [scaled * b.wall_s / a.wall_s for a, b in zip(draft, loader, strict=True)]
    columns = steps * COLUMNS * 8
    above = [(a.peak_bytes - b.peak_bytes) / columns for a, b in zip(draft, imports, strict=True)]
    publish(
        "draft-vs-tensorboard",
        f"""| process | reads, MB | CPU, s | wall, s | peak memory, MB |
| --- | --- | --- | --- | --- |
| `postmortem draft RUN --json`, {steps:,} steps × {COLUMNS} | {size / 1e6:.0f} | {_row(draft)} |
| the same modules imported, nothing done | – | {_row(imports)} |
| `EventAccumulator`, {event_steps:,} steps × {COLUMNS}, as measured | {event_size / 1e6:.0f} | {_row(loader)} |
| … its time × {scaled}, for all {steps:,} steps | {event_size * scaled / 1e6:.0f} | {_times(loader, scaled)} | – |

The loader's time over drafting's: CPU **{spread(cpu_ratio, ".0f", "×")}**, wall **{spread(wall_ratio, ".0f", "×")}**;
at least {FASTER}× was asked for. Peak memory of a draft above the imports: **{spread(above)}** times the bytes of the
twelve columns ({columns / 1e6:.0f} MB as float64); at most {MEMORY} was asked for. Medians (min–max) of
{arguments.rounds} interleaved rounds on {machine()}. The events are one per scalar, as `SummaryWriter.add_scalar`
writes them, loaded without a limit on points; the loader's time is measured on one step in {scaled} and multiplied.""",
        write=arguments.write,
    )
    if min(statistics.median(cpu_ratio), statistics.median(wall_ratio)) < FASTER:
        raise SystemExit(f"drafting is less than {FASTER}× faster than loading")
    if statistics.median(above) > MEMORY:
        raise SystemExit(f"drafting takes more than {MEMORY}× the bytes of the columns")


def _check(diagnosis: dict[str, list[dict[str, int]]], onset: int) -> None:
    """A draft that missed the planted incident would be fast for nothing."""
    found = [incident["onset_step"] for incident in diagnosis["incidents"]]
    say(f"incidents found at steps {found}; one was planted at {onset}")
    if not any(abs(step - onset) <= ONSET_ERROR for step in found):
        raise SystemExit("the planted incident was not found")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _row(costs: list[Cost]) -> str:
    return (
        f"{spread([c.cpu_s for c in costs])} | {spread([c.wall_s for c in costs])} "
        f"| {spread([c.peak_bytes / 1e6 for c in costs], '.0f')}"
    )


def _times(costs: list[Cost], scaled: int) -> str:
    return f"{spread([c.cpu_s * scaled for c in costs], '.0f')} | {spread([c.wall_s * scaled for c in costs], '.0f')}"


if __name__ == "__main__":
    main()
