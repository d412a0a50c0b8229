"""One leg of a resume test, a process of its own: `python -m postmortem.resume_test.leg SPEC.json`.

    straight   trains from 0 to the end
    killed     trains, saves at `at`, goes on for a few steps and is killed by SIGKILL, by its own hand
    resumed    builds the program anew, takes up that checkpoint and trains to the end

Each writes what it did step by step, so that what a killed process did is known, too. The process's own generators are
seeded before the program is built: a program seldom seeds all of them, and one from which no step draws is not to
blame.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STEPS_FILE, PIECES_FILE = "steps.jsonl", "pieces-{}.json"


@dataclass(frozen=True)
class Leg:
    """What one leg has to do. `folder` takes its record, `run` is the run directory that killed and resumed share."""

    name: str
    program: str
    config: dict[str, Any]
    folder: str
    run: str
    steps: int
    at: int
    lost: int
    threads: int

    def write(self, file: Path) -> None:
        """Write the leg as JSON."""
        file.write_text(json.dumps(asdict(self)))


def main(file: Path) -> None:
    """Do what the leg in `file` says."""
    leg = Leg(**json.loads(file.read_text()))
    import numpy as np
    import torch

    torch.set_num_threads(leg.threads)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    from postmortem.checkpoint import Checkpointer, Policy
    from postmortem.live_state import digest
    from postmortem.program import resolve
    from postmortem.record import Recorder
    from postmortem.training_loop import drive

    program = resolve(leg.program)(leg.config)
    folder = Path(leg.folder)
    folder.mkdir(parents=True)
    file_of_steps = os.open(folder / STEPS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    started = program.updates

    def before(step: int, _: object) -> None:
        number = step - (started if leg.name == "resumed" else leg.at)
        if number in (0, 1):
            _write_pieces(program, folder / PIECES_FILE.format(number))
        if leg.name == "killed" and step == leg.at + leg.lost:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(step: int, measured: Any) -> None:
        loss = measured.metrics.get("loss")
        row = {
            "step": step,
            "loss": float(loss).hex() if loss is not None else None,
            "batch": digest(measured.batch),
            "state": digest(program.state_dict()),
        }
        os.write(file_of_steps, (json.dumps(row) + "\n").encode())

    if leg.name == "straight":
        drive(program, leg.steps, before_step=before, after_step=after)
        return
    with (
        Recorder(leg.run, config=leg.config, provenance=False, on_error="raise") as recorder,
        Checkpointer(recorder, program, Policy(rollback_every=0, recovery_every=0)) as checkpointer,
    ):
        if leg.name == "killed":
            drive(program, leg.at, rows=recorder, after_step=after)
            checkpointer.save(leg.at, "recovery")
            checkpointer.wait()
        else:
            checkpointer.resume()
            started = program.updates
        drive(program, leg.steps, rows=recorder, before_step=before, after_step=after)


def _write_pieces(program: Any, file: Path) -> None:
    from postmortem.live_state import live_state, outline

    pieces = {f"state_dict {path}": piece for path, piece in outline(program.state_dict()).items()}
    pieces |= live_state(program)
    file.write_text(json.dumps([[path, piece.kind, piece.value] for path, piece in pieces.items()]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
