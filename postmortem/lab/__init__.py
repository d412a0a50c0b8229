"""Trains a small real model with a chosen fault, so that the true cause of a run is known.

`make_run` drives `postmortem.lab.program` through the program contract and records a run directory. The truth of a run
(which fault, where, how strong) is beside its folder, in `<out>.truth.json`; nothing inside names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from postmortem.errors import UsageError, require

if TYPE_CHECKING:
    from postmortem.lab.session import Progress


def list_faults() -> dict[str, str]:
    """Slug → one line about what happens, for every fault, `none` included. Imports no torch."""
    from postmortem.lab.faults import all_faults

    return {fault.slug: fault.title for fault in all_faults()}


def make_run(
    out: Path,
    *,
    fault: str = "none",
    seed: int = 0,
    at: int | None = None,
    steps: int = 2000,
    until: int | None = None,
    keep_checkpoints: int | tuple[int, ...] = 5,
    checkpoint_every: int = 100,
    run_id: str | None = None,
    truth: Path | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Train a run of `steps` steps with one fault into `out`, and write its truth to `truth` (`<out>.truth.json`).
    With `until`, the training ends early, after that number of steps, as people end a run that spikes often.

    `at` is the step of the fault; without it the seed chooses. `keep_checkpoints` is how many of the newest stay, or
    the exact steps of those that stay. `on_progress(step, steps, loss)` is called after every step. `out` is
    replaced if the lab made it. Raises MissingExtra without torch or xxhash, UsageError for an unknown fault, a step
    out of range, or a folder that something else made. Returns `out`.
    """
    require("the lab", "train", "torch", "xxhash")
    from postmortem.lab.fault_plan import make_spec
    from postmortem.lab.faults import find_fault
    from postmortem.lab.session import record_run

    if not out.name:  # the folder from which it is called, or the root
        raise UsageError(f"{out}: name a folder of its own for the run, whose truth is written beside it")
    spec = make_spec(find_fault(fault), seed=seed, at=at, steps=steps)
    if until is not None:
        spec = spec.cut_off(until)
    record_run(
        out,
        spec,
        keep=keep_checkpoints,
        every=checkpoint_every,
        run_id=run_id or f"lab-{seed:04d}",
        truth=truth or out.with_name(f"{out.name}.truth.json"),
        on_progress=on_progress,
    )
    return out
