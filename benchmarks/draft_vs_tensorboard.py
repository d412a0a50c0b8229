"""`postmortem draft --json` on 1,000,000 steps × 12 columns, compared with TensorBoard only loading the same scalars.

TensorBoard's EventAccumulator is measured on a tenth of the steps, and its time is multiplied. Also measured: the
memory that drafting takes above its imports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from _measure import (
    POSTMORTEM,
    Cost,
    cost,
    cost_cells,
    import_command,
    interleave,
    machine,
    options,
    output,
    publish,
    say,
    speedup,
    spread,
)

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


def arguments_of(description: str) -> argparse.Namespace:
    """The command line of a benchmark that compares with the loader: rounds, steps, share, write."""
    parser = options(description, rounds=3)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--share", type=int, default=10, help="measure the loader on one in so many steps (default 10)")
    return parser.parse_args()


def load_command(events: Path, steps: int) -> tuple[str, ...]:
    """A command in which the EventAccumulator loads the folder `events`, and checks that it got `steps` rows."""
    return (sys.executable, "-c", LOAD_EVENTS, str(events), str(steps * COLUMNS))


def main() -> None:
    arguments = arguments_of(__doc__ or "")
    steps, event_steps = arguments.steps, arguments.steps // arguments.share
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        say(f"writing {steps:,} steps × {COLUMNS} columns, and {event_steps:,} of these as events …")
        cost((sys.executable, "benchmarks/_long_run.py", str(folder), str(steps), str(event_steps)))
        size, event_size = _bytes(run), _bytes(folder / "events")
        words = ("draft", str(run), "--json")
        _check(json.loads(output((*POSTMORTEM, *words))), int(steps * ONSET_SHARE))
        import_modules, _ = import_command(words, folder / "modules")
        load = load_command(folder / "events", event_steps)
        costs = interleave(
            {
                "draft": lambda: cost((*POSTMORTEM, *words)),
                "imports": lambda: cost(import_modules),
                "load": lambda: cost(load),
            },
            arguments.rounds,
        )
    draft, imports, loader = costs["draft"], costs["imports"], costs["load"]
    scaled = arguments.share
    cpu_ratio, wall_ratio = speedup(loader, draft, scaled)
    columns = steps * COLUMNS * 8
    above = [(a.peak_bytes - b.peak_bytes) / columns for a, b in zip(draft, imports, strict=True)]
    publish(
        "draft-vs-tensorboard",
        f"""| process | reads, MB | CPU, s | wall, s | peak memory, MB |
| --- | --- | --- | --- | --- |
| `postmortem draft RUN --json`, {steps:,} steps × {COLUMNS} | {size / 1e6:.0f} | {cost_cells(draft)} |
| the same modules imported, nothing done | – | {cost_cells(imports)} |
| `EventAccumulator`, {event_steps:,} steps × {COLUMNS}, as measured | {event_size / 1e6:.0f} | {cost_cells(loader)} |
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
    """Stop if the draft missed the planted incident: then its speed means nothing."""
    onsets = [incident["onset_step"] for incident in diagnosis["incidents"]]
    say(f"incidents found at steps {onsets}; the planted incident begins at {onset}")
    if not any(abs(step - onset) <= ONSET_ERROR for step in onsets):
        raise SystemExit("the planted incident was not found")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _times(costs: list[Cost], scaled: int) -> str:
    return f"{spread([c.cpu_s * scaled for c in costs], '.0f')} | {spread([c.wall_s * scaled for c in costs], '.0f')}"


if __name__ == "__main__":
    main()
