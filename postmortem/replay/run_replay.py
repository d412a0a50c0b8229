"""Drives one replay: the run's program, from its checkpoint, under the changes, into a new run.

    copy the parent run → build the program → restore the checkpoint → drive, and compare with what was recorded

If a resume of the run lost a part of its state, the replay loses the same part at the same step: an optimizer that was
reset is reset again. A fault of the data or the config is part of the program and happens again; a fault from outside,
such as a flipped bit, does not.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from postmortem.arithmetic import describe_arithmetic
from postmortem.atomic import saving, write_text
from postmortem.change import Change
from postmortem.checkpoint import Checkpointer, CheckpointWarning, NotFinite, Policy
from postmortem.checkpoint.checkpointer import TRAINING_GOES_ON
from postmortem.checkpoint.finite import merged, nonfinite_in
from postmortem.checkpoint.ranks import Ranks
from postmortem.checkpoint.resume import missing_parts
from postmortem.errors import CannotWrite, PostmortemError, UsageError
from postmortem.interventions import ReplayContext
from postmortem.program import FrameworkCheckpoints, Measured, Placeable, Program, State, next_index, select
from postmortem.program_state import digest
from postmortem.record import Recorder
from postmortem.replay.active_changes import ActiveChanges
from postmortem.replay.branch import copy_parent_run
from postmortem.replay.build_program import build_program, read_saved_state, resume_program, set_recorded_threads
from postmortem.replay.comparison import ReplayComparison, describe_other_arithmetic
from postmortem.replay.idle_changes import idle_changes
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.start_checkpoint import find_checkpoint
from postmortem.replay.trust import load_factory, trusted_program
from postmortem.run import Run
from postmortem.run.recorded import IDENTITY_COLUMNS, RecordedRun
from postmortem.run.replayed import RESULT_FILE, ReplayResult, Tally, to_json
from postmortem.sources import open_run
from postmortem.text import plain
from postmortem.training_loop import drive

MOST_STEPS = 10_000_000
"""Of one replay: a log may say that its run had any number of steps."""

OnStep = Callable[[int, int, float, "float | None"], None]
"""Called with (step, until, loss, the loss that the run recorded at that step)."""


class ProgramFailed(UsageError):
    """The run's own program raised an error while it was driven."""


class SaveFailed(CannotWrite):
    """A state that was asked for could not be saved."""


def replay(
    spec: ReplaySpec, *, run: Run | None = None, on_step: OnStep | None = None, provenance: bool = True
) -> ReplayResult:
    """Drive the replay that `spec` describes. Under torch.distributed, every rank calls it. `run` is the run of the
    spec, if it was read before. `provenance` records command line, commit and packages in the new run, as any recorder
    does; the arms of an experiment leave that out.

    Raises:
        UsageError: there is no such step, checkpoint or program, or the program must be trusted first.
        UnreadableInput: the checkpoint is damaged.
        DataChanged: a batch of the program differs from the one that the run consumed.
    """
    started = time.perf_counter()
    run = open_run(spec.run) if run is None else run
    ranks = Ranks()
    recorded = RecordedRun(run, spec.attempt, ranks.rank)
    program = spec.announced or trusted_program(run.manifest.program, spec.program, trust=spec.trusted)
    if not 0 <= spec.from_step < spec.until:
        raise UsageError(f"steps {spec.from_step} to {spec.until}: there is no step to drive")
    if spec.until - spec.from_step > MOST_STEPS:
        raise UsageError(
            f"steps {spec.from_step} to {spec.until} are more than a replay drives at once ({MOST_STEPS:,}); "
            "name a nearer end with --until, or a later start with --from-step"
        )
    checkpoint = find_checkpoint(recorded, spec)
    factory = load_factory(program, elsewhere=not ranks.first)
    driver = _ReplayDriver(spec, recorded, ranks, factory, on_step, started, provenance)
    copied_checkpoint = ranks.run_on_rank_0(lambda: copy_parent_run(recorded, spec, checkpoint))
    return driver.run(copied_checkpoint)


def _describe_end(state: State) -> tuple[str, dict[str, int]]:
    """(hash, NaN and infinite elements by tensor) of the state in which a replay ends."""
    return digest(state), nonfinite_in(state)


class _ReplayDriver:
    """Drives one replay, on one rank."""

    def __init__(
        self,
        spec: ReplaySpec,
        recorded: RecordedRun,
        ranks: Ranks,
        factory: Any,
        on_step: OnStep | None,
        started: float,
        provenance: bool,
    ) -> None:
        self._spec, self._recorded, self._ranks, self._factory = spec, recorded, ranks, factory
        self._on_step, self._started, self._provenance = on_step, started, provenance
        self._context = ReplayContext(recorded, spec.from_step, spec.until, self._load_state)
        earlier = [change_set for change_set in recorded.earlier_change_sets if change_set.from_step <= spec.from_step]
        self._earlier_changes = tuple(change for change_set in earlier for change in change_set.changes)
        self._changes = ActiveChanges(spec.changes, self._context)
        self._comparison = ReplayComparison(recorded, spec.from_step, spec.until, ranks.world)
        self._first_step: float | None = None
        self._acted = frozenset[str]()

    def run(self, checkpoint: Path | None) -> ReplayResult:
        """Drive from `checkpoint`, which is already in the new run."""
        spec, out = self._spec, Path(self._spec.out)
        set_recorded_threads(self._recorded, spec.arithmetic)
        program = self._build(ActiveChanges((*self._earlier_changes, *spec.changes), self._context))
        with Recorder(out, on_error="raise", token_ids="never", provenance=self._provenance) as recorder:
            self._journal_start(recorder, checkpoint)
            policy = Policy(rollback_every=0, recovery_every=0, best_k=0)
            with Checkpointer(recorder, program, policy, asynchronous=False) as checkpointer:
                if checkpoint is not None:
                    index = self._recorded.batch_index_at(spec.from_step)
                    resume_program(program, checkpointer, recorder, checkpoint, spec.from_step, index)
            if program.updates != spec.from_step:
                raise UsageError(
                    f"the program is at step {program.updates} after restoring the checkpoint of step "
                    f"{spec.from_step}: its load_state_dict() does not restore the step"
                )
            program = self._drive(program, recorder)
            ends = self._ranks.run_on_all_ranks(lambda: _describe_end(program.state_dict()))
        seconds = time.perf_counter() - self._started
        startup = (self._first_step or time.perf_counter()) - self._started
        arithmetic = self._ranks.run_on_all_ranks(lambda: describe_other_arithmetic(self._recorded, self._ranks.world))
        compared = Tally.of_ranks(self._ranks.run_on_all_ranks(lambda: self._comparison.tally))
        result = ReplayResult(
            out=spec.out,
            from_step=spec.from_step,
            until=spec.until,
            changes=self._changes.texts,
            steps=spec.until - spec.from_step,
            compared=compared.compared,
            columns=tuple(sorted(compared.columns)),
            differences=tuple(
                sorted(
                    compared.first.values(),
                    key=lambda difference: (difference.step, IDENTITY_COLUMNS.index(difference.column)),
                )
            ),
            departed=dict(compared.differing_rows),
            arithmetic=tuple(dict.fromkeys(chain.from_iterable(arithmetic))),
            state=ends[0][0] if len(ends) == 1 else digest([state for state, _ in ends]),
            startup_s=round(startup, 3),
            seconds=round(seconds, 3),
            computed_with=describe_arithmetic(),
            nonfinite=merged(nonfinite for _, nonfinite in ends),
            idle=self._idle(),
        )
        if self._ranks.first:
            with saving(out):
                write_text(out / RESULT_FILE, to_json(result))
        return result

    def _idle(self) -> tuple[str, ...]:
        """The changes that did nothing in the replayed steps, on any rank."""
        acted = frozenset[str]().union(*self._ranks.run_on_all_ranks(lambda: self._acted))
        known = {change.text for change in idle_changes(self._spec.changes, self._context)}
        idle = known | (self._changes.act_while_driven - acted)
        return tuple(text for text in self._changes.texts if text in idle)

    def _build(self, changes: ActiveChanges) -> Program:
        """A fresh program, built with `changes`."""
        return build_program(self._factory, changes.configured(self._recorded.config))

    def _rebuild(self, program: Program, changes: ActiveChanges) -> Program:
        """Build `program` again, with changes that need another config; it keeps its state and place."""
        fresh = self._build(changes)
        fresh.load_state_dict(program.state_dict())
        if isinstance(fresh, Placeable):
            fresh.place(program.updates, program.position)
        return fresh

    def _journal_start(self, recorder: Recorder, checkpoint: Path | None) -> None:
        spec = self._spec
        if self._ranks.first:
            recorder.event(
                "rollback",
                spec.from_step,
                from_step=self._recorded.last_step,
                to_step=spec.from_step,
                skip=[list(window) for window in self._changes.windows],
                reason=spec.reason,
                changes=list(self._changes.texts),
                checkpoint=None if checkpoint is None else checkpoint.relative_to(spec.out).as_posix(),
                attempt=recorder.attempt,
            )

    def _drive(self, program: Program, recorder: Recorder) -> Program:
        """Drive from stop to stop: a resume of the run, the start of an earlier change set, or a step to save."""
        spec = self._spec
        steps = range(spec.from_step, spec.until)
        resumes = {resume.step: resume.parts for resume in self._recorded.resumes if resume.step in steps}
        earlier_change_sets: dict[int, tuple[Change, ...]] = {}
        for change_set in self._recorded.earlier_change_sets:
            if (step := change_set.from_step) in steps:
                earlier_change_sets[step] = (*earlier_change_sets.get(step, ()), *change_set.changes)
        later = {step for step in earlier_change_sets if step > spec.from_step}
        active: tuple[Change, ...] = (*self._earlier_changes, *spec.changes)
        stops = sorted({spec.from_step, *resumes, *later, *(s for s in spec.save_at if s < spec.until)})
        for number, stop in enumerate(stops):
            if stop in resumes:
                program = self._repeat_resume(
                    program, recorder, stop, resumes[stop], ActiveChanges(active, self._context)
                )
            if stop == spec.from_step:
                ActiveChanges(earlier_change_sets.get(stop, ()), self._context).begin(program)
                self._changes.begin(program)
            elif stop in later:
                beginning = earlier_change_sets[stop]
                active, new = (*active, *beginning), ActiveChanges(beginning, self._context)
                if new.reconfigures:
                    program = self._rebuild(program, ActiveChanges(active, self._context))
                new.begin(program)
            if stop in spec.save_at:
                self._save(program, recorder, stop)
            until = stops[number + 1] if number + 1 < len(stops) else spec.until
            self._drive_until(program, recorder, until, ActiveChanges(active, self._context))
        if spec.until in spec.save_at:
            self._save(program, recorder, spec.until)
        return program

    def _drive_until(self, program: Program, recorder: Recorder, until: int, changes: ActiveChanges) -> None:
        compare, on_step, end = self._comparison, self._on_step, self._spec.until
        same_data = not changes.reconfigures

        def before(*_: object) -> None:
            if self._first_step is None:
                self._first_step = time.perf_counter()

        def after(step: int, measured: Measured) -> None:
            index = program.position - 1
            if same_data and not changes.edited:
                compare.batch(step, index, measured.batch)
            compare.row(step, measured)
            if on_step is not None:
                on_step(step, end, float(measured.metrics.get("loss") or 0.0), compare.loss_at(step))

        changes.bind(program)
        try:
            drive(
                program,
                until,
                rows=recorder,
                skip=changes.windows,
                before_step=before,
                edit=changes.edit(program),
                rewrite=changes.rewrite,
                after_step=after,
            )
        except PostmortemError:
            raise
        except Exception as error:
            index = next_index(program.position, changes.windows)
            raise ProgramFailed(
                f"the program failed at step {program.updates}, on batch {index}: {type(error).__name__}: "
                f"{plain(error, 300)}. The rows before it are in {plain(self._spec.out, 1000)}; "
                "POSTMORTEM_DEBUG=1 shows where it failed"
            ) from error
        finally:
            changes.release()
            self._acted |= changes.acted

    def _repeat_resume(
        self, program: Program, recorder: Recorder, step: int, recorded_parts: tuple[str, ...], changes: ActiveChanges
    ) -> Program:
        """Repeat a resume of the run at `step`: a fresh program restores the recorded parts of the state, or those that
        the changes choose. The journal records it, so that a replay of this replay repeats it."""
        state, parts = program.state_dict(), changes.resumed(recorded_parts)
        fresh = self._build(changes)
        restored = state if parts is None else select(state, parts)
        fresh.load_state_dict(restored)
        if isinstance(fresh, Placeable):
            fresh.place(program.updates, program.position)
        missing = [] if parts is None else list(missing_parts(state, restored))
        if self._ranks.first:
            keys = {"restored": list(parts or state), "missing": missing, "replayed": True}
            recorder.event("resume", step, from_step=step, **keys)
        return fresh

    def _save(self, program: Program, recorder: Recorder, step: int) -> None:
        if isinstance(program, FrameworkCheckpoints):
            recorder.flush()
            with saving(recorder.path):
                path = program.save(recorder.path / "rollback")
            if self._ranks.first:
                relative = path.relative_to(recorder.path).as_posix()
                recorder.event("checkpoint", step, role="rollback", contents="full", path=relative)
            return
        policy = Policy(rollback_every=0, recovery_every=0, best_k=0, rollback_keep=1_000_000)
        with warnings.catch_warnings(), Checkpointer(recorder, program, policy, asynchronous=False) as checkpointer:
            warnings.simplefilter("error", CheckpointWarning)  # the requested state is needed, so a warning is an error
            warnings.simplefilter("ignore", NotFinite)  # it is what the run had
            try:
                checkpointer.save(step, "rollback")
            except CheckpointWarning as warning:
                reason = str(warning).removesuffix(TRAINING_GOES_ON)
                raise SaveFailed(f"{reason}. Is there space left in {plain(self._spec.out, 1000)}?") from warning

    def _load_state(self, step: int) -> State:
        """The state of the run's checkpoint of `step`; of a fresh program at step 0."""
        path = find_checkpoint(self._recorded, replace(self._spec, from_step=step, checkpoint=None))
        fresh = self._build(ActiveChanges((), self._context))
        return fresh.state_dict() if path is None else read_saved_state(path, self._ranks.rank, fresh)
