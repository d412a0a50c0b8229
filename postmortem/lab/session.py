"""Drives the lab's program as a spec says, records what it measures, and applies faults from outside."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from postmortem.atomic import make_folder, names_in, remove_folder, saving, write_text
from postmortem.checkpoint import Checkpointer, NotFinite, Policy
from postmortem.checkpoint.retention import step_name
from postmortem.errors import UsageError
from postmortem.jsonio import read_object, strict_json
from postmortem.lab.config import ENTRY_POINT
from postmortem.lab.fault_plan import WHOLE_STATE, LabRunSpec
from postmortem.lab.program import LabProgram, build
from postmortem.program import Measured, Program
from postmortem.record import Recorder
from postmortem.training_loop import drive

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called with (step, number of steps, loss) after every step."""
VOCAB, ROLE = "vocab.json", "rollback"
_BEFORE_MANIFEST = {VOCAB, ".writer-0.lock", ".run.lock"}  # what a lab that was killed early leaves of its run


def record_run(
    out: Path,
    spec: LabRunSpec,
    *,
    keep: int | tuple[int, ...],
    every: int,
    run_id: str,
    truth: Path,
    on_progress: Progress | None,
) -> None:
    """Make the run of `spec` in `out` and write its truth. See `postmortem.lab.make_run`."""
    program = build(spec.config)
    with saving(truth), saving(out):
        _clear(out)
        make_folder(out)
        write_text(out / VOCAB, json.dumps({"tokens": program.loader.tokenizer.pieces}, ensure_ascii=False) + "\n")
    session = _Session(out, spec, keep, every, on_progress)
    stop = spec.stop
    with session.attempt(program, _manifest(spec, program, run_id)):
        if stop is not None:
            session.drive(program, stop.step)
            session.save(stop.step)
        session.drive(program, spec.steps if stop is None else stop.step + stop.lost)
        if stop is None:
            session.finish()
        else:
            session.recorder.close()  # as if it was killed: no event says how it ended
    if stop is not None:
        program = build(spec.config)
        with session.attempt(program, {}):
            at = out / ROLE / step_name(stop.step)  # a fault may have made its numbers infinite before it
            session.checkpointer.resume(at, parts=stop.restored, allow_nonfinite=True)
            session.drive(program, spec.steps)
            session.finish()
    with saving(truth):
        write_text(truth, strict_json(_truth(spec, session.onset), indent=2))


class _Session:
    """The attempts of one run. Checkpoints are removed only at the end, because a resume may need any of them."""

    def __init__(
        self, out: Path, spec: LabRunSpec, keep: int | tuple[int, ...], every: int, on_progress: Progress | None
    ) -> None:
        self._out, self._spec, self._keep, self._on_progress = out, spec, keep, on_progress
        self._policy = Policy(rollback_every=every, rollback_keep=spec.steps, recovery_every=0, best_k=0)
        self._extra = {step for step in keep if step % every} if isinstance(keep, tuple) else set[int]()
        self.onset = None if callable(spec.onset) else spec.onset

    @contextmanager
    def attempt(self, program: LabProgram, manifest: dict[str, Any]) -> Generator[None]:
        """One process's part of the run. Provenance is left out: the command was not that of a training."""
        config = self._spec.config
        with (
            warnings.catch_warnings(),
            Recorder(
                self._out, config=config, manifest=manifest, token_ids="never", provenance=False, on_error="raise"
            ) as self.recorder,
            Checkpointer(self.recorder, program, self._policy, asynchronous=False) as self.checkpointer,
        ):
            warnings.simplefilter("ignore", NotFinite)  # a fault may ask for that
            yield

    def drive(self, program: LabProgram, until: int) -> None:
        """Train until `until` updates are done, with the faults of the spec."""
        drive(
            program,
            until,
            rows=self.recorder,
            checkpointer=self.checkpointer,
            before_step=self._before_step,
            rewrite=self._spec.rewrite,
            after_step=self._after_step,
        )

    def save(self, step: int) -> None:
        """Save now, independent of the cadence."""
        self.checkpointer.save(step, ROLE)

    def finish(self) -> None:
        """Remove the checkpoints that are not to be kept."""
        saved = sorted((self._out / ROLE).glob("step-*.dcp"))
        if isinstance(self._keep, tuple):
            names = {step_name(step) for step in self._keep}
        else:
            names = {path.name for path in saved[len(saved) - self._keep :]}
        for path in saved:
            if path.name not in names:
                self.checkpointer.delete(path)

    def _before_step(self, step: int, program: Program) -> None:
        if step in self._extra:
            self.save(step)
        if self._spec.before_step is not None:
            self._spec.before_step(step, program)

    def _after_step(self, step: int, measured: Measured) -> None:
        spec = self._spec
        if self.onset is None and callable(spec.onset) and step >= spec.at and spec.onset(dict(measured.metrics)):
            self.onset = step
        if self._on_progress is not None:
            self._on_progress(step, spec.steps, float(measured.metrics["loss"] or 0.0))


def _clear(out: Path) -> None:
    """Remove a run that the lab made in `out` before; refuse anything else that is there."""
    if not out.exists():
        return
    if out.is_dir() and names_in(out).issubset(_BEFORE_MANIFEST):
        return
    manifest = out / "run.json"
    if not manifest.is_file() or read_object(manifest).get("program") != ENTRY_POINT:
        raise UsageError(f"{out} already exists and the lab did not make it; choose another folder")
    remove_folder(out)


def _manifest(spec: LabRunSpec, program: LabProgram, run_id: str) -> dict[str, Any]:
    return {
        "id": run_id,
        "seed": spec.seed,
        "dtype": spec.config["precision"],
        "world_size": 1,
        "program": ENTRY_POINT,
        "config": spec.config,
        "lineage": None,
        "vocab": VOCAB,
        "vocab_size": len(program.loader.tokenizer.pieces),
        "tokens_per_step": program.loader.tokens_per_step,
    }


def _truth(spec: LabRunSpec, onset: int | None) -> dict[str, Any]:
    return {
        "fault": spec.slug,
        "seed": spec.seed,
        "steps": spec.steps,
        "onset_step": onset,
        "batches": spec.batches,
        "parameters": dict(spec.parameters),
        "resume_step": None if spec.stop is None else spec.stop.step,
        "resume_restored_all": spec.stop is None or spec.stop.restored == WHOLE_STATE,
    }
