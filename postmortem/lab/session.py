"""Driving the lab's program, recording what it measures, and doing to it what an order says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from postmortem.atomic import write_text
from postmortem.checkpoint import Checkpointer, Policy
from postmortem.checkpoint.retention import step_name
from postmortem.errors import UsageError
from postmortem.lab.config import ENTRY_POINT
from postmortem.lab.fault_plan import EVERYTHING, LabRunSpec
from postmortem.lab.program import LabProgram, build
from postmortem.program import Measured, Program
from postmortem.record import Recorder
from postmortem.training_loop import drive

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called with (step, steps in all, loss) after every step."""
VOCAB, ROLE = "vocab.json", "rollback"


def record(
    out: Path,
    order: LabRunSpec,
    *,
    keep: int | tuple[int, ...],
    every: int,
    run_id: str,
    truth: Path,
    on_progress: Progress | None,
) -> None:
    """Make the run of `order` in `out` and write its truth. See `postmortem.lab.make_run`."""
    _clear(out)
    program = build(order.config)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / VOCAB, json.dumps({"tokens": program.loader.tokenizer.pieces}, ensure_ascii=False) + "\n")
    session = _Session(out, order, keep, every, on_progress)
    stop = order.stop
    with session.attempt(program, _manifest(order, program, run_id)):
        if stop is not None:
            session.drive(program, stop.step)
            session.save(stop.step)
        session.drive(program, order.steps if stop is None else stop.step + stop.lost)
        if stop is None:
            session.finish()
        else:
            session.recorder.close()  # cut off: no word of how it ended
    if stop is not None:
        program = build(order.config)
        with session.attempt(program, {}):
            session.checkpointer.resume(out / ROLE / step_name(stop.step), parts=stop.restored)
            session.drive(program, order.steps)
            session.finish()
    write_text(truth, json.dumps(_truth(order, session.onset), indent=2) + "\n")


class _Session:
    """The attempts of one run. Which checkpoints stay is settled at the end: a resume may need any of them."""

    def __init__(
        self, out: Path, order: LabRunSpec, keep: int | tuple[int, ...], every: int, on_progress: Progress | None
    ) -> None:
        self._out, self._order, self._keep, self._on_progress = out, order, keep, on_progress
        self._policy = Policy(rollback_every=every, rollback_keep=order.steps, recovery_every=0, best_k=0)
        self._extra = {step for step in keep if step % every} if isinstance(keep, tuple) else set[int]()
        self.onset = None if callable(order.onset) else order.onset

    @contextmanager
    def attempt(self, program: LabProgram, manifest: dict[str, Any]) -> Generator[None]:
        """One process's part of the run. Provenance is left out: the command that ordered the run is not its own."""
        config = self._order.config
        with (
            Recorder(
                self._out, config=config, manifest=manifest, token_ids="never", provenance=False, on_error="raise"
            ) as self.recorder,
            Checkpointer(self.recorder, program, self._policy, asynchronous=False) as self.checkpointer,
        ):
            yield

    def drive(self, program: LabProgram, until: int) -> None:
        """Train until `until` updates are done, doing to the program what the order says."""
        drive(
            program,
            until,
            rows=self.recorder,
            checkpointer=self.checkpointer,
            before_step=self._before,
            rewrite=self._order.rewrite,
            after_step=self._after,
        )

    def save(self, step: int) -> None:
        """Save now, whatever the cadence."""
        self.checkpointer.save(step, ROLE)

    def finish(self) -> None:
        """Remove the checkpoints that shall not stay."""
        saved = sorted((self._out / ROLE).glob("step-*.dcp"))
        if isinstance(self._keep, tuple):
            kept = {step_name(step) for step in self._keep}
        else:
            kept = {path.name for path in saved[len(saved) - self._keep :]}
        for path in saved:
            if path.name not in kept:
                self.checkpointer.delete(path)

    def _before(self, step: int, program: Program) -> None:
        if step in self._extra:
            self.save(step)
        if self._order.before_step is not None:
            self._order.before_step(step, program)

    def _after(self, step: int, measured: Measured) -> None:
        order = self._order
        if self.onset is None and callable(order.onset) and step >= order.at and order.onset(dict(measured.metrics)):
            self.onset = step
        if self._on_progress is not None:
            self._on_progress(step, order.steps, float(measured.metrics["loss"] or 0.0))


def _clear(out: Path) -> None:
    """Remove what the lab made in `out` before; refuse anything else that lies there."""
    if not out.exists():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    manifest = out / "run.json"
    made_here = manifest.is_file() and json.loads(manifest.read_text("utf-8")).get("program") == ENTRY_POINT
    if not made_here:
        raise UsageError(f"{out} is there already and the lab did not make it; choose another folder")
    shutil.rmtree(out)


def _manifest(order: LabRunSpec, program: LabProgram, run_id: str) -> dict[str, Any]:
    return {
        "id": run_id,
        "seed": order.seed,
        "dtype": order.config["precision"],
        "world_size": 1,
        "program": ENTRY_POINT,
        "config": order.config,
        "lineage": None,
        "vocab": VOCAB,
        "vocab_size": len(program.loader.tokenizer.pieces),
        "tokens_per_step": program.loader.tokens_per_step,
    }


def _truth(order: LabRunSpec, onset: int | None) -> dict[str, Any]:
    return {
        "fault": order.slug,
        "seed": order.seed,
        "steps": order.steps,
        "onset_step": onset,
        "batches": order.batches,
        "parameters": dict(order.parameters),
        "resume_step": None if order.stop is None else order.stop.step,
        "resume_restored_all": order.stop is None or order.stop.restored == EVERYTHING,
    }
