"""Driving one order: the run's program, from its checkpoint, under the changes, into a new run.

    branch the run → build the program → restore the checkpoint → drive, comparing with what was recorded

Resumes in which the run left out a part of its state are done again where they were done: an optimizer that was reset
is reset again. A fault of data or config is part of the program and is met again; what came from outside is not.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from postmortem.arithmetic import described
from postmortem.atomic import write_text
from postmortem.change import Change
from postmortem.checkpoint import Checkpointer, CheckpointWarning, Policy
from postmortem.checkpoint.ranks import Ranks
from postmortem.checkpoint.resume import absent
from postmortem.errors import CannotWrite, PostmortemError, UsageError
from postmortem.interventions import Scene
from postmortem.live_state import digest
from postmortem.program import Measured, OwnCheckpoints, Placeable, Program, State, next_index, select
from postmortem.record import Recorder
from postmortem.replay.active_changes import ActiveChanges
from postmortem.replay.branch import branch, writing
from postmortem.replay.build_program import build, resume, saved_state, use_threads_of
from postmortem.replay.comparison import ReplayComparison, Tally, other_arithmetic
from postmortem.replay.result import RESULT_FILE, ReplayResult, to_json
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.start_checkpoint import find_checkpoint
from postmortem.replay.trust import factory_of, trusted_program
from postmortem.run import Run
from postmortem.run.recorded import IDENTITY, RecordedRun
from postmortem.sources import open_run
from postmortem.text import plain
from postmortem.training_loop import drive

OnStep = Callable[[int, int, float, "float | None"], None]
"""Called with (step, until, loss, the loss that the run recorded at that step)."""


class ProgramFailed(UsageError):
    """The run's own program raised an error while it was driven."""


class SaveFailed(CannotWrite):
    """A state that was asked for could not be saved."""


def replay(
    spec: ReplaySpec, *, run: Run | None = None, on_step: OnStep | None = None, provenance: bool = True
) -> ReplayResult:
    """Carry out `spec`. Under torch.distributed, every rank calls it. `run` is the order's, where it was read already.
    `provenance` records command line, commit and packages in the new run, as any recorder does; the arms of an
    experiment leave that out.

    Raises:
        UsageError: a step, a checkpoint or a program that is not there, or a program that must be trusted first.
        UnreadableInput: the checkpoint is damaged.
        DataChanged: the program's batches are not those that the run consumed.
    """
    started = time.perf_counter()
    run = open_run(spec.run) if run is None else run
    ranks = Ranks()
    recorded = RecordedRun(run, spec.attempt, ranks.rank)
    entry_point = trusted_program(run.manifest.program, spec.program, trust=spec.trusted)
    if not 0 <= spec.from_step < spec.until:
        raise UsageError(f"steps {spec.from_step} to {spec.until}: there is no step to drive")
    checkpoint = find_checkpoint(recorded, spec)
    replays = _Replay(spec, recorded, ranks, factory_of(entry_point), on_step, started, provenance)
    copied = ranks.first_says(lambda: branch(recorded, spec, checkpoint))
    return replays.carry_out(copied)


class _Replay:
    """One order in the doing, on one rank."""

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
        self._scene = Scene(recorded, spec.from_step, spec.until, self._load)
        held = [phase for phase in recorded.phases if phase.from_step <= spec.from_step]
        self._earlier = tuple(change for phase in held for change in phase.changes)
        self._own = ActiveChanges(spec.changes, self._scene)
        self._comparison = ReplayComparison(recorded, spec.from_step, spec.until, ranks.world)
        self._first_step: float | None = None

    def carry_out(self, checkpoint: Path | None) -> ReplayResult:
        """Drive from `checkpoint`, which lies in the new run already."""
        spec, out = self._spec, Path(self._spec.out)
        use_threads_of(self._recorded, spec.arithmetic)
        program = self._build(ActiveChanges((*self._earlier, *spec.changes), self._scene))
        with Recorder(out, on_error="raise", token_ids="never", provenance=self._provenance) as recorder:
            self._announce(recorder, checkpoint)
            policy = Policy(rollback_every=0, recovery_every=0, best_k=0)
            with Checkpointer(recorder, program, policy, asynchronous=False) as saves:
                if checkpoint is not None:
                    index = self._recorded.index_at(spec.from_step)
                    resume(program, saves, recorder, checkpoint, spec.from_step, index)
            if program.updates != spec.from_step:
                raise UsageError(
                    f"the program stands at step {program.updates} after restoring the checkpoint of step "
                    f"{spec.from_step}: its load_state_dict() does not bring its step back"
                )
            program = self._drive(program, recorder)
            states = self._ranks.together(lambda: digest(program.state_dict()))
        seconds = time.perf_counter() - self._started
        startup = (self._first_step or time.perf_counter()) - self._started
        arithmetic = self._ranks.together(lambda: other_arithmetic(self._recorded, self._ranks.world))
        compared = Tally.of_ranks(self._ranks.together(lambda: self._comparison.tally))
        result = ReplayResult(
            out=spec.out,
            from_step=spec.from_step,
            until=spec.until,
            changes=self._own.texts,
            steps=spec.until - spec.from_step,
            compared=compared.compared,
            columns=tuple(sorted(compared.columns)),
            differences=tuple(sorted(compared.first.values(), key=lambda one: (one.step, IDENTITY.index(one.column)))),
            departed=dict(compared.departed),
            arithmetic=tuple(dict.fromkeys(chain.from_iterable(arithmetic))),
            state=states[0] if len(states) == 1 else digest(states),
            startup_s=round(startup, 3),
            seconds=round(seconds, 3),
            computed_with=described(),
        )
        if self._ranks.first:
            with writing(out):
                write_text(out / RESULT_FILE, to_json(result))
        return result

    def _build(self, treatment: ActiveChanges) -> Program:
        """A fresh program under all changes that hold."""
        return build(self._factory, treatment.configured(self._recorded.config))

    def _rebuilt(self, program: Program, treatment: ActiveChanges) -> Program:
        """`program` built anew under changes that need another config, with its state and place."""
        fresh = self._build(treatment)
        fresh.load_state_dict(program.state_dict())
        if isinstance(fresh, Placeable):
            fresh.place(program.updates, program.position)
        return fresh

    def _announce(self, recorder: Recorder, checkpoint: Path | None) -> None:
        spec = self._spec
        if self._ranks.first:
            recorder.event(
                "rollback",
                spec.from_step,
                from_step=self._recorded.last_step,
                to_step=spec.from_step,
                skip=[list(window) for window in self._own.windows],
                reason=spec.reason,
                changes=list(self._own.texts),
                checkpoint=None if checkpoint is None else checkpoint.relative_to(spec.out).as_posix(),
                attempt=recorder.attempt,
            )

    def _drive(self, program: Program, recorder: Recorder) -> Program:
        """Drive in stretches: from one resume, phase or save of the run to the next."""
        spec = self._spec
        resumes = {one.step: one.parts for one in self._recorded.resumes if spec.from_step <= one.step < spec.until}
        phases: dict[int, tuple[Change, ...]] = {}
        for one in self._recorded.phases:
            if spec.from_step <= one.from_step < spec.until:
                phases[one.from_step] = (*phases.get(one.from_step, ()), *one.changes)
        later = {step for step in phases if step > spec.from_step}
        held: tuple[Change, ...] = (*self._earlier, *spec.changes)
        stops = sorted({spec.from_step, *resumes, *later, *(s for s in spec.save_at if s < spec.until)})
        for number, stop in enumerate(stops):
            if stop in resumes:
                program = self._resume_again(program, recorder, stop, resumes[stop], ActiveChanges(held, self._scene))
            if stop == spec.from_step:
                ActiveChanges(phases.get(stop, ()), self._scene).begin(program)
                self._own.begin(program)
            elif stop in later:
                held, new = (*held, *phases[stop]), ActiveChanges(phases[stop], self._scene)
                if new.reconfigures:
                    program = self._rebuilt(program, ActiveChanges(held, self._scene))
                new.begin(program)
            if stop in spec.save_at:
                self._save(program, recorder, stop)
            until = stops[number + 1] if number + 1 < len(stops) else spec.until
            self._stretch(program, recorder, until, ActiveChanges(held, self._scene))
        if spec.until in spec.save_at:
            self._save(program, recorder, spec.until)
        return program

    def _stretch(self, program: Program, recorder: Recorder, until: int, treatment: ActiveChanges) -> None:
        compare, on_step, ends = self._comparison, self._on_step, self._spec.until
        same_data = not treatment.reconfigures

        def before(step: int, _: Program) -> None:
            if self._first_step is None:
                self._first_step = time.perf_counter()

        def after(step: int, measured: Measured) -> None:
            index = program.position - 1
            if same_data and not treatment.edited:
                compare.batch(step, index, measured.batch)
            compare.row(step, measured)
            if on_step is not None:
                on_step(step, ends, float(measured.metrics.get("loss") or 0.0), compare.loss_at(step))

        treatment.bind(program)
        try:
            drive(
                program,
                until,
                rows=recorder,
                skip=treatment.windows,
                before_step=before,
                edit=treatment.edit(program),
                rewrite=treatment.rewrite,
                after_step=after,
            )
        except PostmortemError:
            raise
        except Exception as error:
            index = next_index(program.position, treatment.windows)
            raise ProgramFailed(
                f"the program failed at step {program.updates}, on batch {index}: {type(error).__name__}: "
                f"{plain(error, 300)}. The rows before it are in {plain(self._spec.out, 1000)}; "
                "POSTMORTEM_DEBUG=1 shows where it failed"
            ) from error
        finally:
            treatment.release()

    def _resume_again(
        self, program: Program, recorder: Recorder, step: int, recorded: tuple[str, ...], treatment: ActiveChanges
    ) -> Program:
        """What a resume of the run did at `step`: a fresh program takes over the recorded parts of the state, or what
        the treatment makes of them. Journalled, so that a replay of this replay does it again."""
        state, parts = program.state_dict(), treatment.resumed(recorded)
        fresh = self._build(treatment)
        taken = state if parts is None else select(state, parts)
        fresh.load_state_dict(taken)
        if isinstance(fresh, Placeable):
            fresh.place(program.updates, program.position)
        missing = [] if parts is None else list(absent(state, taken))
        if self._ranks.first:
            told = {"restored": list(parts or state), "missing": missing, "replayed": True}
            recorder.event("resume", step, from_step=step, **told)
        return fresh

    def _save(self, program: Program, recorder: Recorder, step: int) -> None:
        if isinstance(program, OwnCheckpoints):
            recorder.flush()
            with writing(recorder.path):
                path = program.save(recorder.path / "rollback")
            if self._ranks.first:
                where = path.relative_to(recorder.path).as_posix()
                recorder.event("checkpoint", step, role="rollback", contents="full", path=where)
            return
        policy = Policy(rollback_every=0, recovery_every=0, best_k=0, rollback_keep=1_000_000)
        with warnings.catch_warnings(), Checkpointer(recorder, program, policy, asynchronous=False) as saves:
            warnings.simplefilter("error", CheckpointWarning)  # whoever asked for a state needs it
            try:
                saves.save(step, "rollback")
            except CheckpointWarning as warning:
                reason = str(warning).removesuffix("; training goes on")
                raise SaveFailed(f"{reason}. Is there space left in {plain(self._spec.out, 1000)}?") from warning

    def _load(self, step: int) -> State:
        """The state of another checkpoint of the run."""
        path = find_checkpoint(self._recorded, replace(self._spec, from_step=step, checkpoint=None))
        like = self._build(ActiveChanges((), self._scene))
        return like.state_dict() if path is None else saved_state(path, self._ranks.rank, like)
