"""What recording one step costs the training thread: ours, TensorBoard, W&B offline, Lightning's CSVLogger, trainscope.

Every contender logs the same row (12 scalars and the xxh3_128 of a batch of 8 × 2,048 int64 token ids) from the same
loop, each in its own process. The processes run side by side and take blocks of steps in turn, one block of each per
round, so that a machine that slows down slows all of them. Only the recording is timed: the hash when the batch
arrives, the scalars after the step. A small training step runs between the two, so that caches are as cold, and
background threads have as much time, as in a real training; or nothing runs between them ("back to back").
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import ROOT, interval, machine, options, publish, rounds_of, say, shown

GOAL_US = 30  # median per step, ours: what was asked for
GOAL_TIMES = 10  # less than W&B offline and than trainscope: what was asked for
SCALARS = 12
SHAPE = (8, 2048)  # token ids of a batch, int64
OURS, NOTHING, WANDB, TRAINSCOPE = "postmortem", "nothing", "wandb", "trainscope"
NAMES = {
    OURS: "`Recorder.log` and `.batch`",
    "tensorboard": "TensorBoard `SummaryWriter`",
    WANDB: "W&B offline",
    "csv_logger": "Lightning `CSVLogger`",
    TRAINSCOPE: "trainscope, on a module of one parameter",
    "trainscope_model": "trainscope, on the loop's model (12 tensors)",
    NOTHING: "the loop alone",
}
MODES = ("work", "tensors", "back_to_back")
BLOCKS = {"work": 150, "tensors": 100, "back_to_back": 300}  # steps


@dataclass(frozen=True)
class Block:
    """A block of steps: seconds of each step's logging calls, and CPU seconds per step of the whole process tree."""

    seconds: list[float]
    cpu_s: float


def main() -> None:
    parser = options(__doc__ or "", rounds=20)
    parser.add_argument("--contender", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        contend(arguments.contender, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        blocks, sizes = measure(Path(folder), arguments.rounds)
    ours = _medians(blocks[OURS]["work"])
    lines = [
        (
            "| recorder | in the training thread, µs per step | mean | p99 | back to back | 12 tensors "
            "| CPU in all, µs | bytes per step | over ours |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ratios: dict[str, tuple[float, float, float]] = {}
    for name, by_mode in blocks.items():
        if name == NOTHING:
            continue
        work = by_mode["work"]
        ratios[name] = interval([theirs / mine for theirs, mine in zip(_medians(work), ours, strict=True)])
        every = sorted(second for block in work for second in block.seconds)
        added = interval([(b.cpu_s - a.cpu_s) * 1e6 for b, a in zip(work, blocks[NOTHING]["work"], strict=True)])
        cells = (
            NAMES[name],
            f"**{_micros(interval(_medians(work)))}**" if name == OURS else _micros(interval(_medians(work))),
            f"{statistics.fmean(every) * 1e6:.0f}",
            f"{every[int(0.99 * len(every))] * 1e6:.0f}",
            _micros(interval(_medians(by_mode["back_to_back"]))),
            _micros(interval(_medians(by_mode["tensors"]))),
            shown(added, ".0f"),
            f"{sizes[name]:.0f}",
            "1" if name == OURS else shown(ratios[name], ".1f", "×"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    step_ms = statistics.median(block.cpu_s for block in blocks[NOTHING]["work"]) * 1e3
    publish(
        "recording overhead",
        "\n".join(lines)
        + f"""

At most {GOAL_US} µs was asked for, and {GOAL_TIMES}× less than W&B offline and than trainscope.
{arguments.rounds} rounds of {BLOCKS["work"]} steps each after one that is thrown away, with a training step of
{step_ms:.1f} ms of CPU between the calls (*back to back*: {BLOCKS["back_to_back"]} steps with nothing between them;
*12 tensors*: 0-d CPU tensors where the others are floats). Medians of the blocks' medians with 95 % bootstrap intervals
over blocks; mean and p99 over all steps. *CPU in all* is what all threads and child processes take beyond the loop
alone. On {machine()}.""",
        write=arguments.write,
    )
    missed = [name for name in (WANDB, TRAINSCOPE) if ratios[name][0] < GOAL_TIMES]
    if missed:
        raise SystemExit(f"less than {GOAL_TIMES}× below {' and '.join(missed)}")
    if statistics.median(ours) * 1e6 > GOAL_US:
        raise SystemExit(f"more than {GOAL_US} µs per step")


def measure(folder: Path, rounds: int) -> tuple[dict[str, dict[str, list[Block]]], dict[str, float]]:
    """(contender → mode → its block of each round, contender → bytes per step that are on disk at the end)."""
    blocks: dict[str, dict[str, list[Block]]] = {name: {mode: [] for mode in MODES} for name in NAMES}
    sizes: dict[str, float] = {}
    children: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in NAMES:
            say(f"starting {name} …")
            children[name] = _start(name, folder / name)
        for number in rounds_of(rounds):
            for mode in MODES:
                order = list(children)
                random.Random(number).shuffle(order)
                for name in order:
                    answer = _ask(children[name], name, mode)
                    if number:
                        blocks[name][mode].append(Block(answer["seconds"], answer["cpu_s"]))
        for name, child in children.items():
            steps = _ask(child, name, "close")["steps"]
            child.wait(60)
            sizes[name] = sum(f.stat().st_size for f in (folder / name).rglob("*") if f.is_file()) / steps
    finally:
        for child in children.values():
            child.kill()
    return blocks, sizes


def _start(name: str, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    environment |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}  # it must not use the network
    command = (sys.executable, __file__, "--contender", name, "--folder", str(folder))
    child = subprocess.Popen(
        command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _ask(child, name, None)
    return child


def _ask(child: subprocess.Popen[str], name: str, command: str | None) -> dict[str, Any]:
    """The next line of JSON from `child`, after sending it `command` if there is one."""
    assert child.stdin and child.stdout
    if command:
        child.stdin.write(f"{command}\n")
        child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"{name} stopped; its error message is above")
    return json.loads(line)


def _medians(blocks: Sequence[Block]) -> list[float]:
    return [statistics.median(block.seconds) for block in blocks]


def _micros(seconds: tuple[float, float, float]) -> str:
    """Median (low–high) of seconds, as µs."""
    middle, low, high = (second * 1e6 for second in seconds)
    return shown((middle, low, high), ".1f")


# ---- one contender, in its own process ----

Arrive = Callable[[int, Any], Any]  # (step, ids of shape SHAPE) → their hash, unless the contender keeps it itself
Log = Callable[[int, dict[str, Any], Any], object]  # (step, row of 12 scalars, hash)
Close = Callable[[], object]
Calls = tuple[Arrive, Log, Close]


def contend(name: str, folder: Path) -> None:
    """Log one block of steps for each mode that is read from stdin, until "close"; answer each with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that the output of libraries does not mix with the answers
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential()
    for _ in range(6):
        model.extend((torch.nn.Linear(256, 256), torch.nn.GELU()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    arrive, log, close = _contender(name, folder, model, optimizer)
    inputs = torch.randn(96, 256)
    fresh = torch.randint(0, 50_000, SHAPE)
    noise = random.Random(0)
    step = 0

    def block(mode: str) -> dict[str, Any]:
        nonlocal step
        seconds: list[float] = []
        start = _tree_cpu_s()
        for _ in range(BLOCKS[mode]):
            ids = fresh.add(step)  # a new tensor, as from a loader
            row: dict[str, Any] = {f"metric_{n}" if n else "loss": noise.gauss(2.5, 0.01) for n in range(SCALARS)}
            if mode == "tensors":
                row = {key: torch.tensor(value) for key, value in row.items()}
            arrived = time.perf_counter()
            digest = arrive(step, ids)
            hashed = time.perf_counter()
            if mode != "back_to_back":
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()
            trained = time.perf_counter()
            log(step, row, digest)
            seconds.append(time.perf_counter() - trained + hashed - arrived)
            step += 1
        return {"seconds": seconds, "cpu_s": (_tree_cpu_s() - start) / BLOCKS[mode]}

    answers.write("{}\n")
    answers.flush()
    for command in sys.stdin:
        closing = command.strip() == "close"
        if closing:
            close()
        answers.write(json.dumps({"steps": step} if closing else block(command.strip())) + "\n")
        answers.flush()
        if closing:
            return


def _contender(name: str, folder: Path, model: Any, optimizer: Any) -> Calls:
    """The calls of a contender at each step, configured for the least work that logs these rows. If it cannot hash, the
    loop hashes for it with the same function; if it cannot log text, the hash is logged as a number.
    """
    return {
        OURS: _postmortem,
        "tensorboard": _tensorboard,
        WANDB: _wandb,
        "csv_logger": _csv_logger,
        TRAINSCOPE: _trainscope,
        "trainscope_model": _trainscope,
        NOTHING: _nothing,
    }[name](folder, *_watched(name, model, optimizer))


def _watched(name: str, model: Any, optimizer: Any) -> tuple[Any, Any]:
    """The model and optimizer that a contender gets. Plain trainscope gets one parameter, because it measures each."""
    import torch

    if name != TRAINSCOPE:
        return model, optimizer
    single = torch.nn.Linear(1, 1, bias=False)
    single(torch.ones(1, 1)).sum().backward()
    return single, torch.optim.AdamW(single.parameters())


def _nothing(folder: Path, model: Any, optimizer: Any) -> Calls:
    def nothing(*_: object) -> None:
        pass

    return nothing, nothing, nothing


def _postmortem(folder: Path, model: Any, optimizer: Any) -> Calls:
    from postmortem.record import Recorder

    recorder = Recorder(folder / "run")

    def log(step: int, row: dict[str, Any], digest: None) -> None:
        recorder.log(step, row)

    return recorder.batch, log, recorder.close


def _tensorboard(folder: Path, model: Any, optimizer: Any) -> Calls:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def log(step: int, row: dict[str, Any], digest: str) -> None:
        for key, value in row.items():
            writer.add_scalar(key, value, step)
        writer.add_text("batch_hash", digest, step)

    return _hasher(), log, writer.close


def _wandb(folder: Path, model: Any, optimizer: Any) -> Calls:
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        silent=True,
    )
    run = wandb.init(project="overhead", mode="offline", dir=str(folder), settings=settings)

    def log(step: int, row: dict[str, Any], digest: str) -> None:
        run.log({**row, "batch_hash": digest}, step=step)

    return _hasher(), log, run.finish


def _csv_logger(folder: Path, model: Any, optimizer: Any) -> Calls:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(str(folder))

    def log(step: int, row: dict[str, Any], digest: str) -> None:
        texts: dict[str, Any] = {**row, "batch_hash": digest}  # its type allows numbers only, but it writes any value
        logger.log_metrics(texts, step)

    return _hasher(), log, lambda: logger.finalize("success")


def _trainscope(folder: Path, model: Any, optimizer: Any) -> Calls:
    """It logs its own rows: 11 scalars of the run and statistics of every parameter. A hash fits only as a number."""
    from trainscope import TrainScope, TrainScopeConfig

    never = 10**9
    config = TrainScopeConfig(
        run_dir=str(folder),
        run_name="run",
        histogram_every_n_steps=never,
        activation_metrics_every_n_steps=never,
        activation_layer_filter=[],
        track_memory=False,
        rng_every_n_steps=0,
        checkpoint_on_spike=False,
        full_resolution_window=50,
        spike_window_before=1,
        spike_window_after=1,
        compaction_every_n_steps=never,
    )
    scope = TrainScope(model, optimizer, config).attach()

    def log(step: int, row: dict[str, Any], digest: str) -> None:
        scope.step(row["loss"], batch_index=int(digest, 16) >> 65)

    return _hasher(), log, scope.detach


def _hasher() -> Arrive:
    from xxhash import xxh3_128_hexdigest

    return lambda step, ids: xxh3_128_hexdigest(ids.numpy())


def _tree_cpu_s() -> float:
    """CPU seconds, user and system, of this process and its descendants (W&B writes in one)."""
    total, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    waiting = [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for child in task.read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / ticks
                waiting.append(int(child))
    return total


if __name__ == "__main__":
    main()
