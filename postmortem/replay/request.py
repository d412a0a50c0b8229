"""Plans a replay: what the command line does not say comes from the run's diagnosis (start, batches to skip, end).

Nothing here imports torch, so that errors in a request are reported at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from postmortem.arithmetic import Mode, arithmetic_of
from postmortem.atomic import OUT, check_inside, saving
from postmortem.change import Change, format_window
from postmortem.diagnosis import Incident
from postmortem.errors import PostmortemError, UnreadableInput, UsageError
from postmortem.interventions import ReplayContext, build_intervention
from postmortem.pipeline import Examined, OpenRuns
from postmortem.program import State
from postmortem.replay.branch import REPLAYS, replayable_root
from postmortem.replay.idle_changes import batches_text, idle_changes, idle_windows
from postmortem.replay.spec import ReplaySpec, read_spec
from postmortem.replay.start_checkpoint import find_checkpoint, newest_healthy
from postmortem.replay.trust import trusted_program
from postmortem.report import IncidentChoice, select_id
from postmortem.run import Run
from postmortem.run.manifest import manifest_file, read_manifest
from postmortem.run.recorded import RecordedRun
from postmortem.run.replayed import RESULT_FILE, SPEC_FILE
from postmortem.text import plain

_LONGEST_NAME = 80


@dataclass(frozen=True)
class ReplayRequest:
    """What the command line asks for. None means "as the diagnosis suggests"; `changes` () asks for no change."""

    run: Path
    from_step: int | None = None
    until: int | None = None
    changes: tuple[Change, ...] | None = None
    incident: int | None = None
    attempt: int | None = None
    checkpoint: str | None = None
    save_at: tuple[int, ...] = ()
    program: str | None = None
    trusted: bool = False
    out: Path | None = None
    arithmetic: Mode = "recorded"


@dataclass(frozen=True)
class ReplayPlan:
    """A spec, and the lines (label, text) to print before it is carried out."""

    spec: ReplaySpec
    lines: tuple[tuple[str, str], ...]

    @property
    def imports(self) -> str:
        """Which foreign program is imported from where, "" for this package's own."""
        return "" if self.spec.announced is None else self.spec.announced.notice


def adopt_arithmetic(run: Path, spec: Path | None, mode: Mode | None) -> None:
    """Compute as `run` did, or as the run of the spec in the file `spec`. Call it before anything imports torch.

    Nothing is said about files that cannot be read: planning the replay reports them, and only once on several ranks.
    """
    with suppress(OSError, PostmortemError):
        from_file = None if spec is None else read_spec(spec)
        path = run if from_file is None else Path(from_file.run)
        file = manifest_file(path)
        if file is not None and file.is_file():
            environment = read_manifest(file, path)[0].environment
            arithmetic_of(environment, mode or ("recorded" if from_file is None else from_file.arithmetic)).adopt()


def plan(request: ReplayRequest, runs: OpenRuns | None = None) -> ReplayPlan:
    """The plan for `request`. `runs` are the runs that the command has already read.

    Raises:
        UsageError: no start is known, or there is no such step, checkpoint or incident.
        UnreadableInput: the run cannot be read.
    """
    runs = runs or OpenRuns()
    run = runs.run(request.run)
    replayable_root(run)
    program = trusted_program(run.manifest.program, request.program, trust=request.trusted)
    start_missing = request.from_step is None and request.checkpoint is None
    needs_diagnosis = start_missing or request.until is None or request.changes is None
    incident = (
        _find_incident(runs.examined(request.run), request.incident)
        if needs_diagnosis or request.incident is not None
        else None
    )
    attempt = request.attempt
    if attempt is None and incident is not None and incident.discarded:
        attempt = incident.attempt
    recorded = RecordedRun(run, attempt)
    start, checkpoint = _find_start(request, recorded, incident)
    incident_ahead = incident if incident is not None and start <= incident.peak_step else None
    end = recorded.last_step + 1
    until = _until(request, incident_ahead, end)
    if not 0 <= start < until:
        raise UsageError(f"steps {start} to {until}: there is no step to drive; the run's last step is {end - 1}")
    context = _planned_context(recorded, start, until)
    changes, origin = _find_changes(request, context, incident_ahead)
    spec = ReplaySpec(
        run=str(request.run),
        out="",
        from_step=start,
        until=until,
        changes=changes,
        attempt=attempt,
        program=request.program,
        checkpoint=checkpoint,
        save_at=request.save_at,
        reason="" if incident_ahead is None else incident_ahead.kind,
        trusted=request.trusted,
        arithmetic=request.arithmetic,
        announced=program,
    )
    start_checkpoint = find_checkpoint(recorded, spec)
    _refuse_idle(changes, context)
    spec = replace(spec, out=str(request.out or replay_folder(request.run, spec)))
    with saving(Path(spec.out)):
        if request.out is not None and _is_taken(request.out, spec):
            raise UsageError(f"{plain(request.out, 1000)}: contains another replay; choose another folder with --out")
    return _make_plan(run, spec, start_checkpoint, origin)


def plan_from_file(
    file: Path, program: str | None, arithmetic: Mode | None, *, trusted: bool, runs: OpenRuns | None = None
) -> ReplayPlan:
    """The plan for the spec in `file`, with another `program` or `arithmetic` where one is given. What the file says
    about trust is ignored: like a run, it may come from strangers.

    Raises:
        UsageError: its program must be trusted first, or there is no such checkpoint.
        UnreadableInput: the file contains no spec, or its run cannot be read.
    """
    spec = read_spec(file)
    run = (runs or OpenRuns()).run(spec.run)
    replayable_root(run)
    announced = trusted_program(spec.program or run.manifest.program, program, trust=trusted)
    spec = replace(
        spec,
        program=program or spec.program,
        arithmetic=arithmetic or spec.arithmetic,
        trusted=trusted,
        announced=announced,
    )
    return _make_plan(run, spec, find_checkpoint(RecordedRun(run, spec.attempt), spec), "")


def replay_folder(run: Path, spec: ReplaySpec) -> Path:
    """The folder for a replay inside its run, named by what the replay does. A finished replay of another spec is not
    replaced: the folder gets a number."""
    check_inside(run / REPLAYS, run, OUT)
    changed = "-".join(str(change) for change in spec.changes) or "null"
    name = f"step-{spec.from_step}-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in changed)
    first = run / REPLAYS / name[:_LONGEST_NAME].rstrip("-")
    folder, number = first, 1
    while _is_taken(folder, spec):
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def _is_taken(out: Path, spec: ReplaySpec) -> bool:
    if not out.exists():
        return False
    try:
        same = read_spec(out / SPEC_FILE) == replace(spec, out=str(out))
    except (OSError, UnreadableInput):
        return True
    return (out / RESULT_FILE).exists() and not same


def _find_incident(examined: Examined, number: int | None) -> Incident | None:
    """The incident with that number, or the worst one; None if there is none."""
    diagnosis = examined.diagnosis(IncidentChoice(number))
    chosen = select_id(diagnosis, number=number, at=None)
    return next((incident for incident in diagnosis.incidents if incident.id == chosen), None)


def _find_start(request: ReplayRequest, recorded: RecordedRun, incident: Incident | None) -> tuple[int, str | None]:
    """(step, checkpoint), where the checkpoint is None unless the request names one."""
    if request.checkpoint is not None:
        step = request.from_step
        root = replayable_root(recorded.run)
        path = find_checkpoint(recorded, ReplaySpec(str(request.run), "", 0, 0, checkpoint=request.checkpoint))
        checkpoint = next(saved for saved in recorded.run.checkpoints if saved.path == path)
        if step not in (None, checkpoint.step):
            raise UsageError(
                f"{plain(request.checkpoint, 300)} is of step {checkpoint.step}, but --from-step is {step}"
            )
        return checkpoint.step, checkpoint.path.relative_to(root).as_posix()
    if request.from_step is not None:
        return request.from_step, None
    if incident is None:
        raise UsageError(
            f"{plain(recorded.run.id)} has no incident, so there is no suggested start: name a step with --from-step N"
        )
    return healthy_start_step(recorded, incident), None


def healthy_start_step(recorded: RecordedRun, incident: Incident) -> int:
    """The step of the newest healthy checkpoint before the incident; 0, from scratch, if there is none."""
    start = newest_healthy(
        recorded, incident.last_sound_step(incident.signals[0].column if incident.signals else "loss")
    )
    return 0 if start is None else start.step


def _until(request: ReplayRequest, incident: Incident | None, end: int) -> int:
    """The step before which the replay ends: as asked for, or as the verification of the incident ahead needs it."""
    if request.until is not None:
        return request.until
    verification = None if incident is None else incident.verification
    return end if verification is None else min(verification.through_step + 1, end)


def _find_changes(
    request: ReplayRequest, context: ReplayContext, incident: Incident | None
) -> tuple[tuple[Change, ...], str]:
    """(changes, a note in parentheses that says where they come from)."""
    if request.changes is not None:
        return request.changes, ""
    if incident is None:
        return (), " (there is no incident after the start)"
    incident_text = f"{plain(incident.kind, 60)} at step {incident.onset_step}"
    if incident.skip_window is None:
        return (), f" (no batch is suspected of the {incident_text}; `postmortem prove` tests the suspected causes)"
    first = max(incident.skip_window[0], context.recorded.batch_index_at(context.from_step))
    last = incident.skip_window[1]
    if first >= last:
        return (), f" (the suspect batches of the {incident_text} come before the start)"
    skip = (Change("skip", ((first, last),)),)
    if idle_changes(skip, context):
        return (), f" (the suspect batches of the {incident_text} come after the last replayed step)"
    return skip, f" (suggested for the {incident_text})"


def _planned_context(recorded: RecordedRun, from_step: int, until: int) -> ReplayContext:
    """What a change may read before anything is driven: no state of a checkpoint."""

    def load(step: int) -> State:
        raise UsageError(f"the state of step {step} is not read before the replay is driven")

    return ReplayContext(recorded, from_step, until, load)


def _refuse_idle(changes: tuple[Change, ...], context: ReplayContext) -> None:
    """Raise UsageError for a change that cannot act in the replayed steps: its replay would look like a failed cure."""
    idle = idle_changes(changes, context)
    if idle:
        others = [change for change in changes if build_intervention(change).text != idle[0].text]
        raise UsageError(
            f"{idle[0].text}: changes nothing in {batches_text(context, others)}: {idle[0].reason}. Choose another "
            "value, or other steps with --from-step and --until"
        )


def _make_plan(run: Run, spec: ReplaySpec, checkpoint: Path | None, origin: str) -> ReplayPlan:
    lines = (
        ("plan", _plan_text(run, spec, checkpoint)),
        ("change", f"{_changes_text(spec.changes)}{origin}"),
        ("bits", arithmetic_of(run.manifest.environment, spec.arithmetic, here=True).text),
    )
    return ReplayPlan(spec, (*lines, *(("note", note) for note in _idle_notes(run, spec))))


def _idle_notes(run: Run, spec: ReplaySpec) -> list[str]:
    """What of the changes does nothing in the replayed steps: whole changes, or else single windows of batches."""
    context = _planned_context(RecordedRun(run, spec.attempt), spec.from_step, spec.until)
    idle = idle_changes(spec.changes, context)
    if idle:
        return [f"{each.text}: changes nothing in {batches_text(context)}: {each.reason}" for each in idle]
    missed = ", ".join(map(format_window, idle_windows(spec.changes, context)))
    return [f"batches {missed} are not among those of {batches_text(context, spec.changes)}"] if missed else []


def _plan_text(run: Run, spec: ReplaySpec, checkpoint: Path | None) -> str:
    source = "scratch"
    if checkpoint is not None:
        source = f"{checkpoint.parent.name}/{checkpoint.name}"
    lineage = "" if spec.attempt is None else f", as attempt {spec.attempt} saw it"
    return f"steps [{spec.from_step}, {spec.until}) of {plain(run.id, 100)}{lineage}, from {plain(source, 300)}"


def _changes_text(changes: Sequence[Change]) -> str:
    return ", ".join(build_intervention(change).text for change in changes) or "nothing: a null replay"
