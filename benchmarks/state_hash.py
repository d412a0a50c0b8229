"""What hashing costs: two hashes of a training's state, compared with reading the memory once, and hashes of a batch.

Memory is read by `torch.sum` over the same bytes with the same number of threads, in turn with the hashes.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else torch's threads keep the cores busy after each sum

import numpy as np
import torch
import xxhash
from _measure import interleave, machine, options, publish, say, spread

from postmortem.lab.config import default_config
from postmortem.lab.program import build
from postmortem.record.hashing import batch_hash, local_state_hash
from postmortem.record.state_hash import state_hash

MIB = 2**20
GOAL_READ = 0.80  # of the bandwidth of one pass: what was asked for
GOAL_STEP = 0.01  # of the lab's steps, at the default cadence: what was asked for
EVERY = 100  # steps, the default cadence
BATCH = (16, 1024)  # int64: 128 KiB


def timed(function: Callable[[], object], times: int = 1) -> Callable[[], float]:
    """A function that calls `function` so many times and returns the seconds that all the calls took."""

    def call() -> float:
        start = time.perf_counter()
        for _ in range(times):
            function()
        return time.perf_counter() - start

    return call


def states(rounds: int) -> str:
    """The table of the state hashes over 512 MiB."""
    state = {f"blocks.{n}.weight": torch.randn(16 * MIB) for n in range(8)}
    whole = [tensor.view(torch.int64) for tensor in state.values()]
    size = sum(tensor.nbytes for tensor in whole) / 1e9
    lines = ["| threads | one-pass read, GB/s | local, GB/s | share | sharding-independent, GB/s | share |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for threads in range(1, (os.cpu_count() or 1) + 1):
        say(f"states of {size:.2f} GB, {threads} threads")
        torch.set_num_threads(threads)
        contenders = {
            "read": timed(lambda: [tensor.sum() for tensor in whole]),
            "local": timed(lambda: local_state_hash(state)),
            "state": timed(lambda: state_hash(state)),
        }
        seconds = interleave(contenders, rounds)
        speed = {name: [size / time_s for time_s in times] for name, times in seconds.items()}
        shares = {
            name: [read / time_s for read, time_s in zip(seconds["read"], seconds[name], strict=True)]
            for name in ("local", "state")
        }
        lines.append(
            f"| {threads} | {spread(speed['read'], '.1f')} | {spread(speed['local'], '.1f')} | "
            f"**{spread(shares['local'], '.0%')}** | {spread(speed['state'])} | {spread(shares['state'], '.1%')} |"
        )
    return "\n".join(lines)


def batches(rounds: int) -> str:
    """The table of hash functions on one batch, `batch_hash` among them."""
    ids = np.random.default_rng(0).integers(0, 50_000, BATCH)
    tensor, data = torch.from_numpy(ids), ids.data
    functions: dict[str, Callable[[], object]] = {
        "xxh3_64": lambda: xxhash.xxh3_64_hexdigest(data),
        "xxh3_128": lambda: xxhash.xxh3_128_hexdigest(data),
        "sha256": lambda: hashlib.sha256(data).hexdigest(),
        "blake2b, 128 bits": lambda: hashlib.blake2b(data, digest_size=16).hexdigest(),
        "`batch_hash` of an array": lambda: batch_hash(ids),
        "`batch_hash` of a tensor": lambda: batch_hash(tensor),
    }
    repeats = {name: 20 if name[0] in "sb" else 200 for name in functions}
    calls = {name: timed(function, repeats[name]) for name, function in functions.items()}
    lines = ["| hash of a batch of 128 KiB | µs | GB/s |", "| --- | --- | --- |"]
    for name, seconds in interleave(calls, 3 * rounds).items():
        micros = [time_s / repeats[name] * 1e6 for time_s in seconds]
        lines.append(f"| {name} | {spread(micros, '.1f')} | {data.nbytes / statistics.median(micros) / 1e3:.1f} |")
    return "\n".join(lines)


def share_of_step(rounds: int) -> list[float]:
    """Per round: the time of one sharding-independent hash of the lab's parameters, over that of 100 of its steps."""
    program = build(default_config(0, 2_000))
    parameters = dict(program._model.named_parameters())
    ten_steps = timed(lambda: program.step(program.batch(program.position)), 10)
    seconds = interleave({"hash": timed(lambda: state_hash(parameters)), "steps": ten_steps}, 5 * rounds)
    return [
        hash_s / (ten_steps_s * EVERY / 10)
        for hash_s, ten_steps_s in zip(seconds["hash"], seconds["steps"], strict=True)
    ]


def main() -> None:
    arguments = options(__doc__ or "", rounds=9).parse_args()
    shares = share_of_step(arguments.rounds)
    publish(
        "state-hash",
        f"""{states(arguments.rounds)}

At least {GOAL_READ:.0%} of the one-pass read was asked for the local hash. On the lab's parameters, every {EVERY}
steps, the sharding-independent hash takes **{spread(shares, ".2%")}** of the steps' time; at most {GOAL_STEP:.0%} was
asked for.

{batches(arguments.rounds)}

128 bits, because in a run of millions of batches two must not get the same hash by chance; xxh3, because the next
function of that width costs many times as much. Medians (min–max) of interleaved rounds on {machine()}.""",
        write=arguments.write,
    )


if __name__ == "__main__":
    main()
