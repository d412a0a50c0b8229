"""Really trained runs of the lab, small: what two runs may be to each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from postmortem.checkpoint import Checkpointer, Policy
from postmortem.drive import Row, drive
from postmortem.lab.config import ENTRY_POINT, default_config
from postmortem.lab.program import build
from postmortem.program import Program
from postmortem.record import Recorder

STEPS = 240
BAD = (100, 104)  # batches of garbage, where a run has them
FROM = 80  # where a rollback goes back to
NEVER = Policy(rollback_every=0, rollback_keep=10, recovery_every=0, best_k=0)


def config(seed: int = 1, **sections: dict[str, Any]) -> dict[str, Any]:
    """The lab's own config of STEPS steps, with keys of its sections replaced."""
    made = default_config(seed, STEPS)
    for section, keys in sections.items():
        made[section] |= keys
    return made


def garbage() -> list[dict[str, Any]]:
    """Streams of the config in which the batches of BAD hold noise."""
    first, last = BAD
    return [
        {"name": "shard-10", "first": first, "batches": last - first, "recipe": "c", "share": 8, "offset": 24, "seed": 3}
    ]


def train(
    run: Path,
    settings: dict[str, Any],
    until: int = STEPS,
    *,
    resume: int | None = None,
    skip: Sequence[tuple[int, int]] = (),
    save: Sequence[int] = (),
    before_step: Callable[[int, Program], None] | None = None,
    rewrite: Callable[[int, Row], Row] | None = None,
    reason: str = "",
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Train into `run` until step `until`, or go on in it from the checkpoint of step `resume`."""
    program = build(copy.deepcopy(settings))
    facts = {"id": run.name, "seed": settings["seed"], "dtype": "fp32", "program": ENTRY_POINT, "tokens_per_step": 94}
    facts |= {"lineage": None, **(manifest or {})} if resume is None else (manifest or {})

    def before(step: int, program: Program) -> None:
        if step in save:
            saves.save(step, "rollback")
        if before_step is not None:
            before_step(step, program)

    with (
        Recorder(run, config=settings, manifest=facts, token_ids="never", provenance=False) as recorder,
        Checkpointer(recorder, program, NEVER, asynchronous=False) as saves,
    ):
        if resume is not None:
            if skip:
                told: dict[str, Any] = {"to_step": resume, "skip": [list(w) for w in skip], "reason": reason}
                told["changes"] = [f"skip batches [{a}, {b})" for a, b in skip]
                recorder.event("rollback", resume, from_step=BAD[1] + 6, attempt=recorder.attempt, **told)
            saves.resume(run / "rollback" / f"step-{resume:08d}.dcp")
        drive(program, until, rows=recorder, skip=skip, before_step=before, rewrite=rewrite)
    return run
