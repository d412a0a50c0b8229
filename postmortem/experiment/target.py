"""One incident of one run, and what all replays of it share: where they start, which program, where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from postmortem.arithmetic import Arithmetic, Mode, arithmetic_of
from postmortem.case import BASELINE_ROWS
from postmortem.change import Change
from postmortem.diagnosis import Diagnosis, Incident
from postmortem.errors import UsageError, error_class
from postmortem.experiment.pool import ReplayOutcome, finished, run_replays
from postmortem.pipeline import OpenRuns
from postmortem.replay.branch import root_of
from postmortem.replay.request import REPLAYS, healthy_start
from postmortem.replay.spec import ReplaySpec
from postmortem.replay.trust import announced, source_of
from postmortem.report import select_id
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.recorded import RecordedRun
from postmortem.series import Steps
from postmortem.text import plain
from postmortem.version import __version__

NULL = "R0"  # folder of the null replay
_PASSED_ON = (2, 3, 4, 5)  # exit codes that mean the same here as in the process that ended with them


@dataclass(frozen=True)
class ExperimentTarget:
    """An incident to experiment on. from_step: of the newest healthy checkpoint before it, 0 from scratch. folder:
    takes the replays. imports: which foreign program is imported from where, "" for this package's own. key: of what
    the replays are driven by, "" where results of other machines are to be taken. collect: take results that were
    brought back from elsewhere, and drive nothing. led_to: the worst incident, where nobody asked for another and this
    one is the first of the cascade that led to it. mode: whose arithmetic the replays take. runs: this run and its
    replays, each read once."""

    run: Run
    diagnosis: Diagnosis
    incident: Incident
    recorded: RecordedRun
    from_step: int
    folder: Path
    program: str | None
    trusted: bool
    imports: str
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
        """The order of one replay of the run, or (`on_null`) of its null replay, from a state that this one saved."""
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
        )

    def drive(
        self, specs: Sequence[ReplaySpec], on_done: Callable[[ReplayOutcome], None] | None = None
    ) -> list[ReplayOutcome]:
        """Carry them out side by side, those that are done already excepted."""
        if self.collect:
            brought = [finished(spec) or ReplayOutcome(spec, None, _absent(spec)) for spec in specs]
            if on_done is not None:
                for done in brought:
                    on_done(done)
            return brought
        return run_replays(specs, workers=self.workers, arithmetic=self.arithmetic, on_done=on_done)

    def drive_one(self, spec: ReplaySpec) -> ReplayOutcome:
        """Carry out one that must succeed.

        Raises:
            PostmortemError: it cannot be driven, with the exit code and the words of what it failed by.
        """
        (done,) = self.drive([spec])
        if done.result is None:
            failed = error_class(done.exit_code) if done.exit_code in _PASSED_ON else UsageError
            raise failed(done.error)
        return done

    @property
    def arithmetic(self) -> Arithmetic:
        """What the replays compute with."""
        return arithmetic_of(self.run.manifest.environment, self.mode)

    @property
    def end(self) -> int:
        """The step after the last one of the run."""
        return self.recorded.last_step + 1

    @property
    def options(self) -> str:
        """What a further command needs to drive the same program in the same way: " --trust", or nothing."""
        return self.spec("", 0, 0).options

    def inside(self, path: Path | str) -> str:
        """A path as the run's own directory sees it."""
        root, path = self.run.root, Path(path)
        return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else str(path)


def _absent(spec: ReplaySpec) -> str:
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
) -> ExperimentTarget:
    """The worst incident of `run`, or the first of the cascade that led to it, or the one of that number; its replays
    go to postmortem/replays/<name>-<onset>.

    Raises:
        UsageError: no incident, or a program that must be trusted first.
        UnreadableInput: the run cannot be read.
    """
    runs = OpenRuns()
    opened = runs.run(run)
    root = root_of(opened)
    imports = announced(opened.manifest.program, program, trust=trusted)
    found = runs.examined(run).diagnosis()
    chosen = select_id(found, number=incident, at=None)
    one = next((i for i in found.incidents if i.id == chosen), None)
    if one is None:
        raise UsageError(f"{plain(opened.id)} has no incident: there is nothing to experiment on")
    worst, one = one, one if incident is not None else first_of_cascade(found.incidents, one, opened.row_steps)
    place = REPLAYS / f"{name}-{one.onset_step}"
    inside(root, str(place), plain(run, 1000))  # a link in a stranger's run must not take the replays elsewhere
    recorded = RecordedRun(opened, one.lineage)
    return ExperimentTarget(
        run=opened,
        diagnosis=found,
        incident=one,
        recorded=recorded,
        from_step=healthy_start(recorded, one),
        folder=root / place,
        program=program,
        trusted=trusted,
        imports=imports,
        key=_key(recorded, program or opened.manifest.program, mode),
        workers=workers,
        led_to=None if one is worst else worst,
        mode=mode,
        runs=runs,
    )


def first_of_cascade(incidents: Sequence[Incident], worst: Incident, row_steps: Steps) -> Incident:
    """The first of the incidents that led to the `worst` one: of the same leading cause, each at most a baseline's
    length of rows after the one before. The later ones start from what it left, and hang on chance."""
    cause = _leading(worst)
    before = [i for i in incidents if (_leading(i), i.attempt, i.discarded) == (cause, worst.attempt, worst.discarded)]
    first = worst
    for one in sorted(before, key=lambda i: i.onset_step, reverse=True):
        end = one.recovery_step or one.peak_step
        apart = int(np.searchsorted(row_steps, first.onset_step) - np.searchsorted(row_steps, end))
        if cause and one.onset_step < first.onset_step and apart <= BASELINE_ROWS:
            first = one
    return first


def _leading(incident: Incident) -> str:
    slug = incident.hypotheses[0].cause if incident.hypotheses else "unknown"
    return "" if slug == "unknown" else slug


def _key(recorded: RecordedRun, entry_point: str | None, mode: Mode) -> str:
    """A hash of what replays of a run are driven by: its rows, the program's source, the versions of torch and of this
    tool, the arithmetic. Where one of them changes, replays that are done already are done anew."""
    arithmetic = arithmetic_of(recorded.run.manifest.environment, mode)
    state = hashlib.sha256(f"{__version__} {metadata.version('torch')} {arithmetic.key}".encode())
    loss = recorded.series("loss")
    if loss is not None:
        state.update(loss.step.tobytes())
        state.update(loss.value.tobytes())
    source = None if entry_point is None else source_of(entry_point)
    if source is not None:
        state.update(source.read_bytes())
    return state.hexdigest()[:16]
