"""One leg of a resume test, a separate process: `python -m postmortem.resume_test.leg SPEC.json`.

    straight   trains from step 0 to the end
    killed     trains, saves at step `kill_at`, trains a few more steps and then kills itself with SIGKILL
    resumed    builds the program again, restores that checkpoint and trains to the end

Each leg writes a record of every step, so that the steps of the killed process are known, too. The global random
generators are seeded before the program is built: programs seldom seed all of them, and a generator from which no step
draws is not to blame.
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

from postmortem.atomic import append, make_folder, saving, write_text
from postmortem.errors import CannotWrite
from postmortem.jsonio import read_record

STEPS_FILE, PIECES_FILE = "steps.jsonl", "pieces-{}.json"
KEEP = "--keep DIR"  # the option that names the folder of the records


@dataclass(frozen=True)
class Leg:
    """The task of one leg. `folder` is for its records, `run` is the run directory that killed and resumed share."""

    name: str
    program: str
    config: dict[str, Any]
    folder: str
    run: str
    steps: int
    kill_at: int
    lost: int
    threads: int

    def write(self, file: Path) -> None:
        """Write the task as JSON. It is not strict: a NaN in the config must come back as a number."""
        write_text(file, json.dumps(asdict(self)))


def main(file: Path) -> None:
    """Run the leg that is described in `file`."""
    leg = read_record(Leg, file, "a leg of a resume test")
    import numpy as np
    import torch

    torch.set_num_threads(leg.threads)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    from postmortem.checkpoint import Checkpointer, Policy
    from postmortem.program import resolve
    from postmortem.program_state import digest
    from postmortem.record import Recorder
    from postmortem.training_loop import drive

    program = resolve(leg.program)(leg.config)
    folder = Path(leg.folder)
    with saving(folder, option=KEEP):
        make_folder(folder)
    first_step = program.updates

    def before(step: int, _: object) -> None:
        offset = step - (first_step if leg.name == "resumed" else leg.kill_at)
        if offset in (0, 1):
            _write_pieces(program, folder / PIECES_FILE.format(offset))
        if leg.name == "killed" and step == leg.kill_at + leg.lost:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(step: int, measured: Any) -> None:
        loss = measured.metrics.get("loss")
        row = {
            "step": step,
            "loss": float(loss).hex() if loss is not None else None,
            "batch": digest(measured.batch),
            "state": digest(program.state_dict()),
        }
        with saving(folder, option=KEEP):
            append(folder / STEPS_FILE, (json.dumps(row) + "\n").encode())

    if leg.name == "straight":
        drive(program, leg.steps, before_step=before, after_step=after)
        return
    with (
        Recorder(leg.run, config=leg.config, provenance=False, on_error="raise") as recorder,
        Checkpointer(recorder, program, Policy(rollback_every=0, recovery_every=0)) as checkpointer,
    ):
        if leg.name == "killed":
            drive(program, leg.kill_at, rows=recorder, after_step=after)
            checkpointer.save(leg.kill_at, "recovery")
            checkpointer.wait()
        else:
            checkpointer.resume()
            first_step = program.updates
        drive(program, leg.steps, rows=recorder, before_step=before, after_step=after)


def _write_pieces(program: Any, file: Path) -> None:
    from postmortem.program_state import program_state, state_pieces

    pieces = {f"state_dict {path}": piece for path, piece in state_pieces(program.state_dict()).items()}
    pieces |= program_state(program)
    with saving(file, option=KEEP):
        write_text(file, json.dumps([[path, piece.kind, piece.value] for path, piece in pieces.items()]))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except CannotWrite as cannot_write:  # the disk is to blame, not the program that is tested
        print(cannot_write, file=sys.stderr)  # noqa: T201 - the parent process reads it
        sys.exit(cannot_write.exit_code)
