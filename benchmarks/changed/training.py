"""Trains the runs of one training and seed: the clean twin first, then each fault from the step at which it begins.

Up to the fault, a run is the twin: all that a seed draws besides the fault (its step, ordinary streams, a stop and a
complete resume) is equal for both. So the state of the twin at that step is kept, and a fault goes on from there, which
is exact: the program is deterministic, and its state is all of it. What was measured is kept in memory and written
afterwards, in each of the ways in which a family logs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from postmortem.lab.config import default_config
from postmortem.lab.fault_plan import WHOLE_STATE, FaultPlan, StopAndResume
from postmortem.lab.faults import find_fault
from postmortem.program import select
from postmortem.record import Recorder
from postmortem.training_loop import Row, drive

from .families import FAMILIES, TRAININGS, Family, Training
from .programs import ENTRY_POINT, ChangedProgram, build_changed

CLEAN = "none"
_FROM_THE_START = ("lr_too_high", "fp16_overflow")
_CLEAR = (60, 100)  # steps before and after a fault in which nothing ordinary happens, either


@dataclass
class Rows:
    """What a run measured: (step, batch facts, metrics) of each attempt, and the steps at which it resumed."""

    attempts: list[list[tuple[int, Row, Row]]] = field(default_factory=lambda: [[]])
    resumes: list[int] = field(default_factory=list[int])
    _facts: Row = field(default_factory=dict[str, Any])

    def batch(self, step: int, batch: Any = None, *, index: int | None = None, **facts: Any) -> None:
        """One row about the batch, as `training_loop.RowSink` receives it."""
        self._facts = {"batch_index": index, **facts}

    def log(self, step: int, metrics: Any = None, /, **columns: Any) -> None:
        """One row of metrics."""
        self.attempts[-1].append((step, self._facts, {**metrics, **columns}))

    def resume(self, step: int) -> None:
        """What comes now is another attempt, which begins at `step`."""
        self.attempts.append([])
        self.resumes.append(step)

    def until(self, step: int) -> Rows:
        """The rows before `step`, of the attempts that began before it."""
        count = 1 + sum(resume < step for resume in self.resumes)
        attempts = [[row for row in attempt if row[0] < step] for attempt in self.attempts[:count]]
        return Rows(attempts, self.resumes[: count - 1])

    def rewritten(self, rewrite: Callable[[int, Row], Row]) -> Rows:
        """The same rows, with each row of metrics as `rewrite(step, row)` logs it."""
        attempts = [[(step, facts, rewrite(step, row)) for step, facts, row in attempt] for attempt in self.attempts]
        return Rows(attempts, self.resumes)


@dataclass(frozen=True)
class Trained:
    """One run, in memory: its config, its rows, and the truth about it."""

    config: dict[str, Any]
    vocab: Sequence[str]
    rows: Rows
    truth: dict[str, Any]


def train(training: str, seed: int, faults: Iterable[str]) -> Iterator[Trained]:
    """The clean run of a seed, and then one run per fault of `faults`."""
    changed = TRAININGS[training]
    clean = plan_of(changed, seed, CLEAN)
    rows, program = Rows(), build_changed(clean.config)
    drive_plan(program, clean, rows, clean.at)
    kept = program.state_dict()
    before = rows.until(clean.at)
    drive_plan(program, clean, rows, clean.steps)
    yield _trained(clean, program, rows, seed, CLEAN)
    for fault in faults:
        plan = plan_of(changed, seed, fault)
        if plan.rewrite is not None:  # only the log is wrong: there is nothing to train
            yield _trained(plan, program, rows.rewritten(plan.rewrite), seed, fault)
            continue
        faulty = build_changed(plan.config)
        from_start = fault in _FROM_THE_START or plan.parameters.get("variant") == "warmup"
        its_rows = Rows() if from_start else before.until(plan.at)
        if not from_start:
            faulty.load_state_dict(kept)
        drive_plan(faulty, plan, its_rows, plan.steps)
        yield _trained(plan, faulty, its_rows, seed, fault)


def plan_of(training: Training, seed: int, fault: str) -> FaultPlan:
    """The plan of a run; all but what the fault writes into it is drawn from the seed alone."""
    rng, steps = Random(f"changed:{seed}"), training.steps
    config = default_config(seed, steps)
    for key, value in training.changes.items():
        section, _, name = key.partition(".")
        config[section][name] = value
    plan = FaultPlan(rng.randrange(steps * 3 // 10, steps * 7 // 10), steps, Random(f"fault:{fault}:{seed}"), config)
    for _ in range(rng.randrange(1, 4)):
        first, batches = rng.randrange(steps), rng.choice((1, 1, 2, 6, 12))
        if _clear(first, plan) and _clear(first + batches, plan):
            FaultPlan(first, steps, Random(f"{seed}:{first}"), config).stream("a", batches)
    if fault != CLEAN:
        rate = config["schedule"]["base_lr"]
        find_fault(fault).fill_plan(plan)
        if fault == "lr_too_high":
            config["schedule"]["base_lr"] = rate + (config["schedule"]["base_lr"] - rate) * training.too_high
            plan.parameters["factor"] = config["schedule"]["base_lr"] / rate
    config["data"]["streams"].sort(key=lambda stream: stream["first"])
    stop, lost, stops = rng.randrange(steps // 10, steps * 9 // 10), rng.choice((0, 0, 7, 25)), rng.random() < 0.3
    if stops and plan.stop is None and _clear(stop, plan) and _clear(stop + lost, plan):
        plan.stop = StopAndResume(stop, lost, WHOLE_STATE)
    return plan


def _clear(step: int, plan: FaultPlan) -> bool:
    return not plan.at - _CLEAR[0] < step < plan.at + _CLEAR[1]


def drive_plan(program: ChangedProgram, plan: FaultPlan, rows: Rows, until: int) -> None:
    """Train until `until` updates are done, with the stop and resume that may lie before."""
    stop = plan.stop
    if stop is not None and program.updates <= stop.step < until:
        _drive_on(program, plan, rows, stop.step)
        saved = program.state_dict()
        _drive_on(program, plan, rows, stop.step + stop.lost)
        fresh = build_changed(plan.config)
        fresh.load_state_dict(select(saved, stop.restored))
        program.load_state_dict(fresh.state_dict())  # a new process: what was not restored is as it is at a start
        rows.resume(stop.step)
    _drive_on(program, plan, rows, until)


def _drive_on(program: ChangedProgram, plan: FaultPlan, rows: Rows, until: int) -> None:
    drive(program, until, rows=rows, before_step=plan.before_step)


def _trained(plan: FaultPlan, program: ChangedProgram, rows: Rows, seed: int, fault: str) -> Trained:
    onset = plan.onset
    if callable(onset):
        test, measured = onset, [(step, row) for attempt in rows.attempts for step, _, row in attempt]
        onset = next((step for step, row in measured if step >= plan.at and test(row)), None)
    truth = {
        "fault": fault,
        "seed": seed,
        "steps": plan.steps,
        "at": plan.at,
        "onset_step": onset,
        "batches": plan.batches,
        "parameters": plan.parameters,
        "resume_step": None if plan.stop is None else plan.stop.step,
        "resume_restored_all": plan.stop is None or plan.stop.restored == WHOLE_STATE,
    }
    return Trained(plan.config, program.loader.tokenizer.pieces, rows, truth)


def write(run: Trained, family: Family, out: Path, code: str) -> None:
    """Record `run` in the folder `out` as the family logs it. Its truth is written beside it at the end, with the hash
    of the `code` that trained it."""
    truth = truth_file(out)
    truth.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "id": out.name.rpartition("-")[2],
        "dtype": run.config["precision"],
        "world_size": 1,
        "program": ENTRY_POINT,
        "vocab": "vocab.json",
        "vocab_size": len(run.vocab),
    }
    config = run.config
    if "vocab" in family.without:
        config = {**config, "data": {key: value for key, value in config["data"].items() if key != "vocab"}}
    else:
        (out / "vocab.json").write_text(json.dumps({"tokens": list(run.vocab)}, ensure_ascii=False) + "\n")
    manifest = {key: value for key, value in manifest.items() if key not in family.without}
    for number, attempt in enumerate(run.rows.attempts):
        with Recorder(
            out, config=config, manifest=manifest if number == 0 else {}, token_ids="never", provenance=False,
            on_error="raise",
        ) as recorder:  # fmt: skip
            if number:
                recorder.resumed(run.rows.resumes[number - 1])
            for step, facts, metrics in attempt:
                if step % family.every == 0:
                    recorder.batch(step, **{"index" if key == "batch_index" else key: v for key, v in facts.items()})
                    recorder.log(step, metrics)
            if number + 1 < len(run.rows.attempts):
                recorder.close()  # as if it was killed: no event says how it ended
    truth.write_text(json.dumps({**run.truth, "code": code}, indent=2) + "\n")


def folder(runs: Path, family: str, fault: str, seed: int) -> Path:
    """Where a run of a family lies in `runs`."""
    return runs / family / f"{fault}-{seed}"


def truth_file(path: Path) -> Path:
    """The file beside the run `path` that says what is true of it."""
    return path.with_name(f"{path.name}.truth.json")


def read_truth(path: Path) -> dict[str, Any]:
    """What is true of the run `path`."""
    return json.loads(truth_file(path).read_text())


def ensure_trained(runs: Path, training: str, seed: int, faults: Sequence[str], code: str) -> None:
    """Train and write what is missing of a seed, or was trained by other code, for all families that log `training`."""
    families = {name: family for name, family in FAMILIES.items() if family.training == training}

    def missing(fault: str) -> bool:
        paths = [folder(runs, name, fault, seed) for name in families]
        return not all(truth_file(path).exists() and read_truth(path).get("code") == code for path in paths)

    wanted = [fault for fault in faults if missing(fault)]
    if not wanted:
        return
    for run in train(training, seed, [fault for fault in wanted if fault != CLEAN]):
        if run.truth["fault"] in wanted:
            for name, family in families.items():
                write(run, family, folder(runs, name, run.truth["fault"], seed), code)
