"""A training that records and saves while somebody means to kill it. Run in processes of their own."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

FLUSH_S = 0.2
STEPS = 150


def config() -> dict[str, object]:
    """A sound lab run."""
    from postmortem.lab.config import default_config

    return default_config(11, STEPS)


def train(run: str, notes: str, resume: bool) -> None:
    """Train to the end; `notes` gets one line (step, loss bits, monotonic seconds) for each row that was handed over,
    written by this thread, so that what the recorder was given is known whatever becomes of it."""
    from postmortem.checkpoint import Checkpointer, Policy
    from postmortem.lab.program import build
    from postmortem.program import Measured
    from postmortem.program_state import digest
    from postmortem.record import Recorder
    from postmortem.training_loop import drive

    program = build(config())
    handle = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(step: int, measured: Measured) -> None:
        loss = float(measured.metrics["loss"] or 0.0)
        os.write(handle, (json.dumps([step, loss.hex(), time.monotonic()]) + "\n").encode())

    policy = Policy(rollback_every=7, recovery_every=20, rollback_keep=2, recovery_keep=1, best_k=0)
    with (
        Recorder(run, config=config(), provenance=False, flush_interval_s=FLUSH_S) as recorder,
        Checkpointer(recorder, program, policy) as checkpointer,
    ):
        if resume:
            checkpointer.resume()
        drive(program, STEPS, rows=recorder, checkpointer=checkpointer, after_step=note)
    Path(notes).with_suffix(".end").write_text(digest(program.state_dict()))
