"""The target of an experiment: one incident of one run, and what all its replays share (start, program, folder)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from postmortem.arithmetic import Arithmetic, Mode, arithmetic_of
from postmortem.atomic import check_inside
from postmortem.case import BASELINE_ROWS
from postmortem.change import Change
from postmortem.diagnosis import Diagnosis, Incident
from postmortem.errors import UsageError, error_class
from postmortem.experiment.pool import FinishedReplay, read_finished, run_replays
from postmortem.pipeline import OpenRuns
from postmortem.replay.branch import REPLAYS, replayable_root
from postmortem.replay.request import healthy_start_step
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.trust import NamedProgram, trusted_program
from postmortem.report import IncidentChoice, select_id
from postmortem.run import Run
from postmortem.run.recorded import RecordedRun
from postmortem.series import Steps
from postmortem.text import plain, relative_path
from postmortem.version import __version__

NULL = "R0"  # folder of the null replay
_PASSED_ON = (2, 3, 4, 5)  # exit codes with the same meaning here as in the process that ended with them


@dataclass(frozen=True)
class ExperimentTarget:
    """An incident to experiment on. from_step: of the newest healthy checkpoint before it, 0 from scratch. folder: of
    the replays. announced: the program that they import, as it was looked up. key: a hash of what the results depend
    on, "" to accept results of other machines. collect: only read results that were brought back
    from elsewhere. led_to: the worst incident, if this one is the first of the cascade that led to it. mode: which
    arithmetic the replays use. runs: this run and its replays, each read once."""

    run: Run
    diagnosis: Diagnosis
    incident: Incident
    recorded: RecordedRun
    from_step: int
    folder: Path
    program: str | None
    trusted: bool
    announced: NamedProgram
    key: str = ""
    workers: int | None = None
    collect: bool = False
    led_to: Incident | None = None
    mode: Mode = "recorded"
    runs: OpenRuns = field(default_factory=OpenRuns, repr=False, compare=False)

    def spec(
        self,
        name: str,
        from_step: int,
        until: int,
        changes: tuple[Change, ...] = (),
        *,
        on_null: bool = False,
        save_at: tuple[int, ...] = (),
        reason: str = "",
    ) -> ReplaySpec:
        """The spec of one replay of the run, or (`on_null`) of its null replay, from a state that the null replay
        saved."""
        return ReplaySpec(
            run=str(self.folder / NULL) if on_null else str(self.run.path),
            out=str(self.folder / name),
            from_step=from_step,
            until=until,
            changes=changes,
            attempt=None if on_null else self.recorded.attempt,
            program=self.program,
            save_at=save_at,
            reason=reason,
            trusted=self.trusted,
            key=self.key,
            arithmetic=self.mode,
            announced=self.announced,
        )

    def drive(
        self, specs: Sequence[ReplaySpec], on_done: Callable[[FinishedReplay], None] | None = None
    ) -> list[FinishedReplay]:
        """Drive the replays in parallel, except those that are finished already."""
        if self.collect:
            finished = [read_finished(spec) or FinishedReplay(spec, None, _missing_result(spec)) for spec in specs]
            if on_done is not None:
                for replay in finished:
                    on_done(replay)
            return finished
        return run_replays(specs, workers=self.workers, arithmetic=self.arithmetic, on_done=on_done)

    def drive_one(self, spec: ReplaySpec) -> FinishedReplay:
        """Drive one replay that must succeed.

        Raises:
            PostmortemError: it failed, with the exit code and the message of its error.
        """
        (replay,) = self.drive([spec])
        if replay.result is None:
            failed = error_class(replay.exit_code) if replay.exit_code in _PASSED_ON else UsageError
            raise failed(replay.error)
        return replay

    @property
    def arithmetic(self) -> Arithmetic:
        """How the replays compute."""
        return arithmetic_of(self.run.manifest.environment, self.mode)

    @property
    def end(self) -> int:
        """The step after the last one of the run."""
        return self.recorded.last_step + 1

    @property
    def options(self) -> str:
        """Options with which another command drives the same program in the same way: " --trust", or nothing."""
        return self.spec("", 0, 0).options

    def relative_path(self, path: Path | str) -> str:
        """`path` relative to the run, if it is inside."""
        return relative_path(Path(path), self.run.root)


def _missing_result(spec: ReplaySpec) -> str:
    return f"no result was brought back to {plain(spec.out, 1000)}"


def find_target(
    run: Path,
    name: str,
    *,
    incident: int | None = None,
    program: str | None = None,
    trusted: bool = False,
    workers: int | None = None,
    mode: Mode = "recorded",
    proven: bool = True,
) -> ExperimentTarget:
    """The incident with the number `incident`; by default the first of the cascade that led to the worst one. Its
    replays go to postmortem/replays/<name>-<onset>. `proven`: with what earlier replays have shown of it.

    Raises:
        UsageError: the run has no incident, or its program must be trusted first.
        UnreadableInput: the run cannot be read.
        CannotWrite: the folder of the replays leads outside the run.
    """
    runs = OpenRuns()
    opened = runs.run(run)
    root = replayable_root(opened)
    announced = trusted_program(opened.manifest.program, program, trust=trusted)
    diagnosis = runs.examined(run).diagnosis(IncidentChoice(incident), proven=proven)
    number = select_id(diagnosis, number=incident, at=None)
    selected = next((candidate for candidate in diagnosis.incidents if candidate.id == number), None)
    if selected is None:
        raise UsageError(f"{plain(opened.id)} has no incident: there is nothing to experiment on")
    target = selected
    if incident is None:
        target = first_of_cascade(diagnosis.incidents, selected, opened.row_steps)
    folder = REPLAYS / f"{name}-{target.onset_step}"
    check_inside(root / folder, root)  # a link in a stranger's run must not lead the replays elsewhere
    recorded = RecordedRun(opened, target.lineage)
    return ExperimentTarget(
        run=opened,
        diagnosis=diagnosis,
        incident=target,
        recorded=recorded,
        from_step=healthy_start_step(recorded, target),
        folder=root / folder,
        program=program,
        trusted=trusted,
        announced=announced,
        key=_result_key(recorded, announced, mode),
        workers=workers,
        led_to=None if target is selected else selected,
        mode=mode,
        runs=runs,
    )


def first_of_cascade(incidents: Sequence[Incident], worst: Incident, row_steps: Steps) -> Incident:
    """The first of the incidents that led to the `worst` one: they have the same leading cause, and each begins within
    a baseline's length of rows after the one before. The later ones start from what it left, and depend on chance."""
    cause = _leading_cause(worst)
    before = [
        i for i in incidents if (_leading_cause(i), i.attempt, i.discarded) == (cause, worst.attempt, worst.discarded)
    ]
    first = worst
    for earlier in sorted(before, key=lambda i: i.onset_step, reverse=True):
        end = earlier.recovery_step or earlier.peak_step
        rows_between = int(np.searchsorted(row_steps, first.onset_step) - np.searchsorted(row_steps, end))
        if cause and earlier.onset_step < first.onset_step and rows_between <= BASELINE_ROWS:
            first = earlier
    return first


def _leading_cause(incident: Incident) -> str:
    slug = incident.hypotheses[0].cause if incident.hypotheses else "unknown"
    return "" if slug == "unknown" else slug


def _result_key(recorded: RecordedRun, program: NamedProgram, mode: Mode) -> str:
    """A hash of what replays of a run depend on: its rows, the program's source, the versions of torch and of this
    tool, the arithmetic. If one of them changes, finished replays are driven again."""
    arithmetic = arithmetic_of(recorded.run.manifest.environment, mode)
    state = hashlib.sha256(f"{__version__} {metadata.version('torch')} {arithmetic.key}".encode())
    loss = recorded.series("loss")
    if loss is not None:
        state.update(loss.step.tobytes())
        state.update(loss.value.tobytes())
    if program.file is not None:
        state.update(program.file.read_bytes())
    return state.hexdigest()[:16]
