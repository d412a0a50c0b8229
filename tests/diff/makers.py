"""Really trained runs of the lab, small: what two runs may be to each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from postmortem.checkpoint import Checkpointer, Policy
from postmortem.lab.config import ENTRY_POINT, default_config
from postmortem.lab.program import build
from postmortem.program import Program
from postmortem.record import Recorder
from postmortem.training_loop import Row, drive

STEPS = 200
BAD = (90, 94)  # batches of garbage, where a run has them
FROM = 70  # where a rollback goes back to
SHORT = 120  # steps of the run that ends early
NUDGED, WRONG, HURT = 50, 100, 120  # steps at which the others depart from the clean run
NEVER = Policy(rollback_every=0, rollback_keep=10, recovery_every=0, best_k=0)


def config(seed: int = 1, **sections: dict[str, Any]) -> dict[str, Any]:
    """The lab's own config of STEPS steps, with keys of its sections replaced."""
    made = default_config(seed, STEPS)
    for section, keys in sections.items():
        made[section] |= keys
    return made


def garbage() -> list[dict[str, Any]]:
    """Streams of the config in which the batches of BAD hold noise."""
    place = {"first": BAD[0], "batches": BAD[1] - BAD[0]}
    return [{"name": "shard-10", **place, "recipe": "c", "share": 8, "offset": 24, "seed": 3}]


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


def make_all(root: Path) -> dict[str, Path]:
    """One run of each kind that the tests hold against `clean`."""
    bad = config(data={"streams": garbage()})
    made = {
        "clean": train(root / "clean", config()),
        "spiked": train(root / "spiked", bad),
        "rolled": train(root / "rolled", bad, BAD[1] + 7, save=(FROM,)),
        "resumed": train(root / "resumed", config(), FROM + 20, save=(FROM,)),
        "nudged": train(root / "nudged", config(), before_step=_at(NUDGED, _nudge)),
        "hurt": train(root / "hurt", config(), before_step=_at(HURT, _hurt)),
        "slow": train(root / "slow", config(schedule={"base_lr": 1e-4})),
        "odd": train(root / "odd", config(), rewrite=_one_row_wrong),
        "short": train(root / "short", config(), SHORT),
    }
    train(made["rolled"], bad, resume=FROM, skip=[BAD], reason="loss_spike_sustained")
    train(made["resumed"], config(), resume=FROM)
    return made


def _at(step: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[int, Program], None]:
    """Change the parameters before one step."""

    def before(now: int, program: Program) -> None:
        if now == step:
            program.load_state_dict({"model": change(program.state_dict()["model"])})

    return before


def _nudge(model: dict[str, Any]) -> dict[str, Any]:
    """One tensor larger by a few ulps, as another order of sums would leave it."""
    first = min(model)
    return {**model, first: model[first] * (1 + 1e-6)}


def _hurt(model: dict[str, Any]) -> dict[str, Any]:
    """Noise of a quarter of each matrix's own deviation: more than is made good before the run ends."""
    noise = torch.Generator().manual_seed(0)
    return {
        name: value + 0.25 * value.std() * torch.randn(value.shape, generator=noise) if value.ndim > 1 else value
        for name, value in model.items()
    }


def _one_row_wrong(step: int, row: Row) -> Row:
    return {**row, "loss": float(row["loss"] or 0) + 1.5} if step == WRONG else row
