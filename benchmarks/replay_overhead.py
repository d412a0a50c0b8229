"""What a replay costs beyond the work it cannot avoid: the time to its first step, and its loop.

To the first step: from starting the process until the program gets its first batch. This is compared with a process
that imports torch, builds the program and loads the checkpoint into it, which any resume has to do; and with one that
only imports torch and loads the checkpoint.

The loop: `postmortem.replay` drives the program of the sample run. After each block of steps, a second copy of the
program takes the same steps in a loop of two lines that records the same rows. Measured are CPU seconds of the training
thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _measure import (
    POSTMORTEM,
    ROOT,
    interval,
    machine,
    options,
    output,
    publish,
    rounds_of,
    say,
    shown,
)

RUN = ROOT / "sample_runs" / "clean-001"
STEP, STEPS, BLOCK = 1000, 900, 15
GOAL_START, GOAL_LOOP = 1.3, 0.02  # what was asked for
FLOORS = {"load": "torch, the checkpoint", "build": "torch, the program, the checkpoint into it"}
REPLAYS = {"given": ["--from-step", str(STEP), "--null"], "diagnosed": ["--from-step", str(STEP)]}
THIS = (sys.executable, __file__)


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
    share = interval([100 * (ours / theirs - 1) for ours, theirs in pairs])  # percent
    step_ms = statistics.median(theirs for _, theirs in pairs) / BLOCK * 1e3
    rows = [
        f"| {FLOORS['load']} | {_seconds(starts['load'])} | | 1 |",
        f"| {FLOORS['build']} | {_seconds(starts['build'])} | 1 | {shown(bare['build'], '.2f', '×')} |",
        *(
            f"| `postmortem replay`, {text} | {_seconds(starts[name])} "
            f"| {shown(over[name], '.2f', '×')} | {shown(bare[name], '.2f', '×')} |"
            for name, text in (("given", "step and change given"), ("diagnosed", "defaults from the diagnosis"))
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

Replay's loop takes **{shown(share, ".2f", " %")}** more CPU than the program's own
({step_ms:.2f} ms a step); at most {100 * GOAL_LOOP:.0f} % was asked for. {len(pairs)} pairs of blocks of {BLOCK} steps,
in turn in one process. Medians with 95 % bootstrap intervals. On {machine()}.""",
        write=arguments.write,
    )
    if share[0] > 100 * GOAL_LOOP:
        raise SystemExit(f"the loop takes more than {100 * GOAL_LOOP:.0f} % over the program's own")
    if over["given"][0] > GOAL_START:
        raise SystemExit(f"more than {GOAL_START}× until the first step")


def start_times(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Contender → per round, seconds from the start of its process until it takes, or could take, its first step."""
    times: dict[str, list[float]] = {name: [] for name in (*FLOORS, *REPLAYS)}
    for number in rounds_of(rounds):
        for name, seconds in times.items():
            start = time.time()
            if name in FLOORS:
                until = float(output((*THIS, "--floor", name), one_thread=True))
            else:
                out = folder / f"{name}-{number}"
                words = [str(RUN), *REPLAYS[name], "--until", str(STEP + 1), "--out", str(out), "--json"]
                output((*POSTMORTEM, "replay", *words), one_thread=True)
                until = float(output((sys.executable, "-c", _FIRST_STEP_TIME, str(out)), one_thread=True))
            if number:
                seconds.append(until - start)
    return times


_FIRST_STEP_TIME = f"""
import sys
from pathlib import Path
from postmortem.sources import open_run
run = open_run(Path(sys.argv[1]))
print(run.series("time").at({STEP}) - run.series("step_time_s").at({STEP}))
"""


def blocks(folder: Path) -> list[tuple[float, float]]:
    """(CPU seconds of a block in the replay, in the bare loop) for each block; the first pair is thrown away."""
    return [tuple(pair) for pair in json.loads(output((*THIS, "--loop", str(folder)), one_thread=True))][1:]


def _seconds(times: list[float]) -> str:
    return shown(interval(times), ".2f", " s")


# ---- each in its own process ----


def floor(kind: str) -> None:
    """Do the work that no resume can avoid, and print the time at its end."""
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
    """Replay, with a block of the bare loop after each block of the replay; print the CPU seconds of both as JSON."""
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

        def after(step: int, until: int, loss: float, recorded: float | None) -> None:
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
