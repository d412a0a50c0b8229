"""Reading 200,000 steps × 8 tags of TensorBoard events: our reader, TensorBoard's EventAccumulator without a limit on
points, and tbparse; and what each of them keeps of a run that was restarted.

Each is a process of its own that reads the file into arrays or objects and counts the points.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from _measure import cost, cost_cells, interleave, machine, options, output, publish, say, speedup, spread

TAGS = 8
RESTART = (2_000, 1_500, 2_500)  # steps of the first process, first and last step of the second
FASTER_THAN_TENSORBOARD, FASTER_THAN_TBPARSE = 4, 10  # times: what was asked for

WRITE = """
import sys
from torch.utils.tensorboard import SummaryWriter
folder, first, end, tags = sys.argv[1], *map(int, sys.argv[2:])
with SummaryWriter(folder, purge_step=first or None) as writer:
    for step in range(first, end):
        for tag in range(tags):
            writer.add_scalar(f"train/metric_{tag}", 1 / (step + 1) + tag, step)
"""
OURS = """
import sys
from pathlib import Path
from postmortem.sources.tensorboard_events import read_table
table = read_table(Path(sys.argv[1]))[0]
columns = [table.numbers(name) for name in table.names if name not in ("step", "time")]
points = sum(column.value.size - column.nulls for column in columns)
print(points)
"""
TENSORBOARD = """
import sys
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
accumulator = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0})
accumulator.Reload()
print(sum(len(accumulator.Scalars(tag)) for tag in accumulator.Tags()["scalars"]))
"""
TBPARSE = """
import sys
from tbparse import SummaryReader
print(len(SummaryReader(sys.argv[1]).scalars))
"""
READERS = {"ours": OURS, "tensorboard": TENSORBOARD, "tbparse": TBPARSE}


def main() -> None:
    parser = options(__doc__ or "", rounds=3)
    parser.add_argument("--steps", type=int, default=200_000)
    arguments = parser.parse_args()
    steps = arguments.steps
    with tempfile.TemporaryDirectory() as name:
        events, restarted = Path(name) / "events", Path(name) / "restarted"
        say(f"writing {steps:,} steps × {TAGS} tags …")
        _write(events, 0, steps)
        first, again, end = RESTART
        _write(restarted, 0, first)
        _write(restarted, again, end)
        size = sum(file.stat().st_size for file in events.iterdir()) / 1e6
        kept = {reader: _points(reader, restarted) for reader in READERS}
        for reader in READERS:
            if (points := _points(reader, events)) != steps * TAGS:
                raise SystemExit(f"{reader} read {points:,} points of {steps * TAGS:,}")
        contenders = {
            reader: lambda code=code: cost((sys.executable, "-c", code, str(events)), one_thread=True)
            for reader, code in READERS.items()
        }
        costs = interleave(contenders, arguments.rounds)
    logged = (first + end - again) * TAGS
    ratios = {reader: speedup(costs[reader], costs["ours"])[0] for reader in ("tensorboard", "tbparse")}
    rows = "\n".join(
        f"| {title} | {cost_cells(costs[reader])} | {over} | {kept[reader]:,} of {logged:,} |"
        for reader, title, over in (
            ("ours", "postmortem's reader", "1"),
            ("tensorboard", f"`EventAccumulator`, tensorboard {version('tensorboard')}", _times(ratios["tensorboard"])),
            ("tbparse", f"`SummaryReader`, tbparse {version('tbparse')}", _times(ratios["tbparse"])),
        )
    )
    publish(
        "event-readers",
        f"""| process | CPU, s | wall, s | peak memory, MB | CPU over ours | points kept of a restarted run |
| --- | --- | --- | --- | --- | --- |
{rows}

At least {FASTER_THAN_TENSORBOARD}× and {FASTER_THAN_TBPARSE}× was asked for, and every point kept.
{steps:,} steps × {TAGS} tags, {size:.0f} MB, as `SummaryWriter.add_scalar` writes them; the accumulator without a limit
on points; every process with its imports. The restarted run went on at step {again:,} after step {first - 1:,}, by a
writer that was given `purge_step`. Medians (min–max) of {arguments.rounds} interleaved rounds on {machine()}.""",
        write=arguments.write,
    )
    if kept["ours"] != logged:
        raise SystemExit(f"{kept['ours']:,} of {logged:,} points of the restarted run were kept")
    asked = {"tensorboard": FASTER_THAN_TENSORBOARD, "tbparse": FASTER_THAN_TBPARSE}
    for reader, times in asked.items():
        if statistics.median(ratios[reader]) < times:
            raise SystemExit(f"the reader is less than {times}× faster than {reader}")


def _write(folder: Path, first: int, end: int) -> None:
    cost((sys.executable, "-c", WRITE, str(folder), str(first), str(end), str(TAGS)))


def _points(reader: str, path: Path) -> int:
    return int(output((sys.executable, "-c", READERS[reader], str(path)), one_thread=True))


def _times(ratios: list[float]) -> str:
    return f"**{spread(ratios, '.0f', '×')}**"


if __name__ == "__main__":
    main()
