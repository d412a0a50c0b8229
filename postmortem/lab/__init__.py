"""The lab: a small real training program that can be given a fault, and the runs that it makes.

`make_run` drives `postmortem.lab.program` through the program contract and records a run directory. The truth of a run
(which fault, where, how strong) lies beside its folder, in `<out>.truth.json`; nothing inside names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from postmortem.errors import require

if TYPE_CHECKING:
    from postmortem.lab.session import Progress


def list_faults() -> dict[str, str]:
    """Slug → one line on what happens, for every fault that can be chosen, `none` among them. Imports no torch."""
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
    With `until`, the training is given up after that many of them, as a run that spiked often is.

    `at` places the fault; without it the seed does. `keep_checkpoints` is how many of the newest stay, or the exact
    steps of those that do. `on_progress(step, steps, loss)` is called after every step. `out` is replaced where the lab
    made it. Raises MissingExtra without torch or xxhash, UsageError for an unknown fault, a step out of range, or a
    folder that something else made. Returns `out`.
    """
    require("the lab", "train", "torch", "xxhash")
    from postmortem.lab.fault_plan import place
    from postmortem.lab.faults import find_fault
    from postmortem.lab.session import record

    spec = place(find_fault(fault), seed=seed, at=at, steps=steps)
    if until is not None:
        spec = spec.ending(until)
    record(
        out,
        spec,
        keep=keep_checkpoints,
        every=checkpoint_every,
        run_id=run_id or f"lab-{seed:04d}",
        truth=truth or out.with_name(f"{out.name}.truth.json"),
        on_progress=on_progress,
    )
    return out
