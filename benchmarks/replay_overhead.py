"""What a replay costs beside what it cannot do without: the time to its first step, and its loop.

To the first step: from starting the process until the first batch is handed to the program, against a process that
imports torch, builds the program and loads the checkpoint into it, which any resume has to do; and against one that
only imports torch and loads the checkpoint.

The loop: `postmortem.replay` drives the sample run's program, and after each block of steps a second copy of it takes
the same steps in a loop of two lines that records the same rows. CPU seconds of the training thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _measure import ROOT, machine, options, publish, say

RUN = ROOT / "sample_runs" / "clean-001"
STEP, STEPS, BLOCK = 1000, 900, 15
GOAL_START, GOAL_LOOP = 1.3, 0.02  # what was asked for
FLOORS = {"load": "torch, the checkpoint", "build": "torch, the program, the checkpoint into it"}
REPLAYS = {"said": ["--from-step", str(STEP), "--null"], "diagnosed": ["--from-step", str(STEP)]}


def main() -> None:
    parser = options(__doc__ or "", rounds=9)
    parser.add_argument("--floor", choices=FLOORS, help=argparse.SUPPRESS)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.floor:
        floor(arguments.floor)
        return
    if arguments.loop:
        loop(arguments.loop)
        return
    with tempfile.TemporaryDirectory() as folder:
        starts = start_times(Path(folder), arguments.rounds)
        say(f"loop: {STEPS // BLOCK} blocks of {BLOCK} steps")
        pairs = blocks(Path(folder) / "loop")
    over = {name: interval([a / b for a, b in zip(starts[name], starts["build"], strict=True)]) for name in REPLAYS}
    bare = {name: interval([a / b for a, b in zip(each, starts["load"], strict=True)]) for name, each in starts.items()}
    share = interval([ours / theirs - 1 for ours, theirs in pairs])
    step_ms = statistics.median(theirs for _, theirs in pairs) / BLOCK * 1e3
    rows = [
        f"| {FLOORS['load']} | {shown(interval(starts['load']), '.2f', ' s')} | | 1 |",
        f"| {FLOORS['build']} | {shown(interval(starts['build']), '.2f', ' s')} | 1 "
        f"| {shown(bare['build'], '.2f', '×')} |",
        *(
            f"| `postmortem replay`, {text} | {shown(interval(starts[name]), '.2f', ' s')} "
            f"| {shown(over[name], '.2f', '×')} | {shown(bare[name], '.2f', '×')} |"
            for name, text in (("said", "step and change said"), ("diagnosed", "defaults from the diagnosis"))
        ),
    ]
    publish(
        "replay overhead",
        "\n".join(
            [
                "| until the first step | time | over a resume's own work | over torch and the checkpoint |",
                "| --- | --- | --- | --- |",
                *rows,
            ]
        )
        + f"""

{arguments.rounds} rounds in turn after one that is thrown away. At most {GOAL_START}× was asked for.

Replay's loop takes **{shown(tuple(100 * one for one in share), ".2f", " %")}** more CPU than the program's own
({step_ms:.2f} ms a step); at most {100 * GOAL_LOOP:.0f} % was asked for. {len(pairs)} pairs of blocks of {BLOCK} steps,
in turn in one process. Medians with 95 % bootstrap intervals. On {machine()}.""",
        write=arguments.write,
    )
    if share[0] > GOAL_LOOP:
        raise SystemExit(f"the loop takes more than {100 * GOAL_LOOP:.0f} % over the program's own")
    if over["said"][0] > GOAL_START:
        raise SystemExit(f"more than {GOAL_START}× until the first step")


def start_times(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of a process until it could take, or takes, its first step: contender → rounds."""
    times: dict[str, list[float]] = {name: [] for name in (*FLOORS, *REPLAYS)}
    for number in range(rounds + 1):
        for name in times:
            say(f"round {number} of {rounds}: {name}" + (" (warm-up)" if number == 0 else ""))
            begun = time.time()
            if name in FLOORS:
                until = float(_child(__file__, "--floor", name))
            else:
                out = folder / f"{name}-{number}"
                words = [str(RUN), *REPLAYS[name], "--until", str(STEP + 1), "--out", str(out), "--json"]
                _child("-m", "postmortem", "replay", *words)
                until = float(_child("-c", _FIRST, str(out)))
            if number:
                times[name].append(until - begun)
    return times


_FIRST = f"""
import sys
from pathlib import Path
from postmortem.sources import open_run
run = open_run(Path(sys.argv[1]))
print(run.series("time").at({STEP}) - run.series("step_time_s").at({STEP}))
"""


def blocks(folder: Path) -> list[tuple[float, float]]:
    """(CPU seconds of a block by replay, by the bare loop), the first pair thrown away."""
    return [tuple(pair) for pair in json.loads(_child(__file__, "--loop", str(folder)))][1:]


def _child(*words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high): the median of `values`, and the 95 % interval of it over 2,000 bootstrap samples."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def shown(figures: Sequence[float], form: str, unit: str) -> str:
    """Median (low–high)."""
    middle, low, high = figures
    return f"{middle:{form}}{unit} ({low:{form}}–{high:{form}})"


# ---- in processes of their own ----


def floor(kind: str) -> None:
    """Do what cannot be spared, and print the time at which it is done."""
    import torch  # noqa: F401 - the import is what is timed

    from postmortem.checkpoint import load_checkpoint
    from postmortem.program import resolve

    program = None
    if kind == "build":
        manifest = json.loads((RUN / "run.json").read_text())
        program = resolve(manifest["program"])(manifest["config"])
    load_checkpoint(RUN / "rollback" / f"step-{STEP:08d}.dcp", into=program)
    print(time.time())


def loop(folder: Path) -> None:
    """Replay, with a block of the bare loop after each block of it."""
    from postmortem.checkpoint import load_checkpoint
    from postmortem.program import resolve
    from postmortem.record import Recorder
    from postmortem.replay.run_replay import replay
    from postmortem.replay.spec import ReplaySpec

    manifest = json.loads((RUN / "run.json").read_text())
    program = resolve(manifest["program"])(manifest["config"])
    load_checkpoint(RUN / "rollback" / f"step-{STEP:08d}.dcp", into=program)
    pairs: list[tuple[float, float]] = []
    with Recorder(folder / "bare", token_ids="never") as recorder:

        def after(step: int, until: int, loss: float, was: float | None) -> None:
            nonlocal mark
            if (step + 1 - STEP) % BLOCK:
                return
            ours, mark = time.thread_time() - mark, time.thread_time()
            for number in range(step + 1 - BLOCK, step + 1):
                batch = program.batch(program.position)
                measured = program.step(batch)
                facts = {key: value for key, value in measured.batch.items() if key != "batch_index"}
                recorder.batch(number, index=batch.index, **facts)
                recorder.log(number, measured.metrics)
            theirs, mark = time.thread_time() - mark, time.thread_time()
            pairs.append((ours, theirs))

        mark = time.thread_time()
        replay(ReplaySpec(str(RUN), str(folder / "replay"), STEP, STEP + STEPS), on_step=after)
    print(json.dumps(pairs))


if __name__ == "__main__":
    main()
