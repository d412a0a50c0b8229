"""What hashing costs: the local state hash against one pass over memory, the sharding-independent one, and a batch.

Memory is read by `torch.sum` over the same bytes with the same number of threads, in turn with the hashes.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # or torch's threads spin on after each sum, on the hash's cores

import numpy as np
import torch
import xxhash
from _measure import machine, options, publish, say, spread

from postmortem.lab.config import default_config
from postmortem.lab.program import build
from postmortem.record.hashing import batch_hash, local_state_hash
from postmortem.record.state_hash import state_hash

MIB = 2**20
GOAL_READ = 0.80  # of the bandwidth of one pass: what was asked for
GOAL_STEP = 0.01  # of the lab's steps, at the default cadence: what was asked for
EVERY = 100  # steps, the default cadence
BATCH = (16, 1024)  # int64: 128 KiB


def turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call, each contender once per round, after one cold round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            begun = time.perf_counter()
            contender()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


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
        seconds = turns(
            {
                "read": lambda: [tensor.sum() for tensor in whole],
                "local": lambda: local_state_hash(state),
                "state": lambda: state_hash(state),
            },
            rounds,
        )
        speed = {name: [size / taken for taken in times] for name, times in seconds.items()}
        shares = {
            name: [read / taken for read, taken in zip(seconds["read"], seconds[name], strict=True)]
            for name in ("local", "state")
        }
        lines.append(
            f"| {threads} | {spread(speed['read'], '.1f')} | {spread(speed['local'], '.1f')} | "
            f"**{spread(shares['local'], '.0%')}** | {spread(speed['state'])} | {spread(shares['state'], '.1%')} |"
        )
    return "\n".join(lines)


def batches(rounds: int) -> str:
    """The table of hash functions on one batch, and what `batch_hash` takes."""
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
    calls = {name: _repeated(function, repeats[name]) for name, function in functions.items()}
    lines = ["| hash of a batch of 128 KiB | µs | GB/s |", "| --- | --- | --- |"]
    for name, seconds in turns(calls, 3 * rounds).items():
        each = [taken / repeats[name] for taken in seconds]
        lines.append(
            f"| {name} | {spread([taken * 1e6 for taken in each], '.1f')} | "
            f"{data.nbytes / statistics.median(each) / 1e9:.1f} |"
        )
    return "\n".join(lines)


def _repeated(function: Callable[[], object], times: int) -> Callable[[], object]:
    def call() -> None:
        for _ in range(times):
            function()

    return call


def share_of_step(rounds: int) -> list[float]:
    """The sharding-independent hash of the lab's parameters over 100 of the lab's steps, per round."""
    program = build(default_config(0, 2_000))
    parameters = dict(program._model.named_parameters())
    steps = _repeated(lambda: program.step(program.batch(program.position)), 10)
    seconds = turns({"hash": lambda: state_hash(parameters), "steps": steps}, 5 * rounds)
    return [hashed / (steps * EVERY / 10) for hashed, steps in zip(seconds["hash"], seconds["steps"], strict=True)]


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

128 bits, because a run of millions of batches must not meet two of one 64-bit hash by chance; xxh3, because the next
function of that width costs many times as much. Medians (min–max) of interleaved rounds on {machine()}.""",
        write=arguments.write,
    )


if __name__ == "__main__":
    main()
