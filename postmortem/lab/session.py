"""Driving the lab's program, recording what it measures, and doing to it what an order says."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash

from postmortem.atomic import write_text
from postmortem.errors import UsageError
from postmortem.lab import checkpoints
from postmortem.lab.config import ENTRY_POINT
from postmortem.lab.order import EVERYTHING, Order
from postmortem.lab.program import LabProgram, build
from postmortem.program import next_index, select
from postmortem.record.writer import RunWriter

if TYPE_CHECKING:
    from postmortem.lab import Progress

VOCAB = "vocab.json"


@dataclass(frozen=True)
class _Keeping:
    """Which checkpoints are made and which stay: the newest `keep`, or exactly those of the steps in it."""

    every: int
    keep: int | tuple[int, ...]

    def due(self, step: int) -> bool:
        return step > 0 and (step % self.every == 0 or (isinstance(self.keep, tuple) and step in self.keep))

    def surplus(self, steps: list[int]) -> list[int]:
        if isinstance(self.keep, tuple):
            return [step for step in steps if step not in self.keep]
        return sorted(steps)[: -self.keep] if self.keep else steps


def record(
    out: Path,
    order: Order,
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
    session = _Session(out, order, _Keeping(every, keep), on_progress)
    with session.attempt(0, _manifest(order, program, run_id)):
        session.writer.event("run_start", 0)
        session.drive(program, order.steps if order.stop is None else order.stop.step + order.stop.lost)
        if order.stop is None:
            session.finish()
    if order.stop is not None:
        program = build(order.config)
        with session.attempt(1, None):
            session.resume(program)
            session.drive(program, order.steps)
            session.finish()
    write_text(truth, json.dumps(_truth(order, session.onset), indent=2) + "\n")


class _Session:
    """The attempts of one run."""

    def __init__(self, out: Path, order: Order, keeping: _Keeping, on_progress: Progress | None) -> None:
        self._out, self._order, self._keeping, self._on_progress = out, order, keeping, on_progress
        self._saved: list[int] = []
        self.onset = None if callable(order.onset) else order.onset

    @contextmanager
    def attempt(self, number: int, manifest: dict[str, Any] | None) -> Generator[None]:
        with RunWriter(self._out, manifest, attempt=number) as self.writer:
            yield

    def drive(self, program: LabProgram, until: int) -> None:
        order = self._order
        while program.updates < until:
            step = program.updates
            self._checkpoint(program, step)
            if order.before_step is not None:
                order.before_step(step, program)
            measured = program.step(program.batch(next_index(program.position)))
            row = {**measured.metrics, "time": time.time()}
            if self.onset is None and callable(order.onset) and step >= order.at and order.onset(row):
                self.onset = step
            self.writer.log(step, row if order.rewrite is None else order.rewrite(step, row))
            self.writer.batch(step, measured.batch)
            if self._on_progress is not None:
                self._on_progress(step, order.steps, float(measured.metrics["loss"] or 0.0))
        if until < order.steps:
            self._checkpoint(program, until)

    def resume(self, program: LabProgram) -> None:
        stop = self._order.stop
        assert stop is not None
        path = checkpoints.checkpoint_path(self._out, stop.step)
        program.load_state_dict(select(checkpoints.load(path), stop.restored))
        self.writer.event(
            "resume",
            stop.step,
            from_step=stop.step,
            checkpoint=path.relative_to(self._out).as_posix(),
            restored=list(stop.restored),
        )

    def finish(self) -> None:
        self._discard()
        self.writer.event("run_end", self._order.steps, status="completed")

    def _checkpoint(self, program: LabProgram, step: int) -> None:
        stop = self._order.stop
        at_stop = stop is not None and step == stop.step
        if step in self._saved or not (at_stop or self._keeping.due(step)):
            return
        path = checkpoints.save(self._out, step, program.state_dict())
        self._saved.append(step)
        self.writer.event("checkpoint", step, role=checkpoints.ROLE, path=path.relative_to(self._out).as_posix())
        if stop is None or step > stop.step + stop.lost:
            self._discard()

    def _discard(self) -> None:
        for step in self._keeping.surplus(self._saved):
            path = checkpoints.checkpoint_path(self._out, step)
            path.unlink()
            self._saved.remove(step)
            name = path.relative_to(self._out).as_posix()
            self.writer.event("checkpoint_deleted", step, role=checkpoints.ROLE, path=name)


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


def _manifest(order: Order, program: LabProgram, run_id: str) -> dict[str, Any]:
    return {
        "id": run_id,
        "seed": order.seed,
        "dtype": order.config["precision"],
        "world_size": 1,
        "program": ENTRY_POINT,
        "config": order.config,
        "environment": environment(),
        "lineage": None,
        "vocab": VOCAB,
        "vocab_size": len(program.loader.tokenizer.pieces),
        "tokens_per_step": program.loader.tokens_per_step,
    }


def environment() -> dict[str, Any]:
    """What the bits of a run depend on besides its config."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "xxhash": xxhash.VERSION,
        "platform": platform.platform(),
        "cpu": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _truth(order: Order, onset: int | None) -> dict[str, Any]:
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
