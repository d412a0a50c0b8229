"""What the command line leaves open, filled in from the run's diagnosis: where to start, what to skip, how far to go.

Nothing here imports torch, so that what cannot be done is said at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from postmortem.arithmetic import Mode, arithmetic_of
from postmortem.change import Change
from postmortem.diagnosis import Incident
from postmortem.errors import PostmortemError, UnreadableInput, UsageError
from postmortem.interventions import make
from postmortem.pipeline import Examined, OpenRuns
from postmortem.replay.branch import SPEC_FILE, root_of
from postmortem.replay.result import RESULT_FILE
from postmortem.replay.spec import ReplaySpec, read_spec
from postmortem.replay.start_checkpoint import find_checkpoint, usable
from postmortem.replay.trust import announced
from postmortem.report import select_id
from postmortem.run import Run
from postmortem.run.manifest import inside, manifest_file, read_manifest
from postmortem.run.recorded import RecordedRun
from postmortem.text import plain

REPLAYS = Path("postmortem", "replays")
_LONGEST_NAME = 80


@dataclass(frozen=True)
class ReplayRequest:
    """What the command line says. None is "as the diagnosis suggests"; `changes` () changes nothing on purpose."""

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
    """An order, and what is to be said of it before it is carried out: (label, text) each. `imports` says which foreign
    program is imported from where, "" for this package's own."""

    spec: ReplaySpec
    lines: tuple[tuple[str, str], ...]
    imports: str = ""


def adopt_arithmetic(run: Path, spec: Path | None, mode: Mode | None) -> None:
    """Compute as `run` did, or the run of the order in that file; to be called before anything imports torch.

    What cannot be read is left to the planning of the replay, which says so, and with several ranks once.
    """
    with suppress(OSError, PostmortemError):
        given = None if spec is None else read_spec(spec)
        path = run if given is None else Path(given.run)
        file = manifest_file(path)
        if file is not None and file.is_file():
            environment = read_manifest(file, path)[0].environment
            arithmetic_of(environment, mode or ("recorded" if given is None else given.arithmetic)).adopt()


def plan(asked: ReplayRequest, runs: OpenRuns | None = None) -> ReplayPlan:
    """The order that `asked` comes to. `runs` are those that the command has read.

    Raises:
        UsageError: nothing says from where, or there is no such step, checkpoint or incident.
        UnreadableInput: the run cannot be read.
    """
    runs = runs or OpenRuns()
    run = runs.run(asked.run)
    root_of(run)
    imports = announced(run.manifest.program, asked.program, trust=asked.trusted)
    start_is_open = asked.from_step is None and asked.checkpoint is None
    is_open = start_is_open or asked.until is None or asked.changes is None
    incident = _incident(runs.examined(asked.run), asked.incident) if is_open or asked.incident is not None else None
    attempt = asked.attempt
    if attempt is None and incident is not None and incident.discarded:
        attempt = incident.attempt
    recorded = RecordedRun(run, attempt)
    start, checkpoint = _start(asked, recorded, incident)
    ahead = incident if incident is not None and start <= incident.peak_step else None
    changes, why = _changes(asked, recorded, ahead, start)
    end = recorded.last_step + 1
    until = asked.until
    if until is None:
        wanted = end if ahead is None or ahead.verification is None else ahead.verification.through_step + 1
        until = min(wanted, end)
    if not 0 <= start < until:
        raise UsageError(f"steps {start} to {until}: there is no step to drive; the run's last step is {end - 1}")
    spec = ReplaySpec(
        run=str(asked.run),
        out="",
        from_step=start,
        until=until,
        changes=changes,
        attempt=attempt,
        program=asked.program,
        checkpoint=checkpoint,
        save_at=asked.save_at,
        reason="" if ahead is None else ahead.kind,
        trusted=asked.trusted,
        arithmetic=asked.arithmetic,
    )
    held = find_checkpoint(recorded, spec)
    spec = replace(spec, out=str(asked.out or place(asked.run, spec)))
    if asked.out is not None and _taken(asked.out, spec):
        raise UsageError(f"{plain(asked.out, 1000)}: holds another replay; choose another folder with --out")
    return _planned(run, spec, held, why, imports)


def plan_of(
    file: Path, program: str | None, arithmetic: Mode | None, *, trusted: bool, runs: OpenRuns | None = None
) -> ReplayPlan:
    """The order in `file`, with another `program` or `arithmetic` where one is given. What it says of trust counts for
    nothing: it comes from elsewhere as a run does.

    Raises:
        UsageError: its program has to be trusted first, or there is no such checkpoint.
        UnreadableInput: the file holds no order, or its run cannot be read.
    """
    spec = read_spec(file)
    run = (runs or OpenRuns()).run(spec.run)
    root_of(run)
    imports = announced(spec.program or run.manifest.program, program, trust=trusted)
    spec = replace(spec, program=program or spec.program, arithmetic=arithmetic or spec.arithmetic, trusted=trusted)
    return _planned(run, spec, find_checkpoint(RecordedRun(run, spec.attempt), spec), "", imports)


def place(run: Path, spec: ReplaySpec) -> Path:
    """The folder of a replay below its run, named by what it does. A finished replay of another order is not
    replaced: a number is added."""
    inside(run, str(REPLAYS), plain(run, 1000))
    changed = "-".join(str(change) for change in spec.changes) or "null"
    name = f"step-{spec.from_step}-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in changed)
    first = run / REPLAYS / name[:_LONGEST_NAME].rstrip("-")
    found, number = first, 1
    while _taken(found, spec):
        number += 1
        found = first.with_name(f"{first.name}-{number}")
    return found


def _taken(out: Path, spec: ReplaySpec) -> bool:
    if not out.exists():
        return False
    try:
        same = read_spec(out / SPEC_FILE) == replace(spec, out=str(out))
    except (OSError, UnreadableInput):
        return True
    return (out / RESULT_FILE).exists() and not same


def _incident(examined: Examined, number: int | None) -> Incident | None:
    """The incident with that number, or the worst; None where there is none."""
    found = examined.diagnosis()
    chosen = select_id(found, number=number, at=None)
    return next((one for one in found.incidents if one.id == chosen), None)


def _start(asked: ReplayRequest, recorded: RecordedRun, incident: Incident | None) -> tuple[int, str | None]:
    """(step, checkpoint where one of that step has to be told from others)."""
    if asked.checkpoint is not None:
        step = asked.from_step
        root = root_of(recorded.run)
        path = find_checkpoint(recorded, ReplaySpec(str(asked.run), "", 0, 0, checkpoint=asked.checkpoint))
        held = next(one for one in recorded.run.checkpoints if one.path == path)
        if step not in (None, held.step):
            raise UsageError(f"{plain(asked.checkpoint, 300)} is of step {held.step}, and --from-step says {step}")
        return held.step, held.path.relative_to(root).as_posix()
    if asked.from_step is not None:
        return asked.from_step, None
    if incident is None:
        raise UsageError(
            f"{plain(recorded.run.id)} has no incident, so nothing says where to start: name a step, --from-step N"
        )
    return healthy_start(recorded, incident), None


def healthy_start(recorded: RecordedRun, incident: Incident) -> int:
    """The step of the newest checkpoint before the incident; one of parameters only, which would reset the optimizer,
    only where there is no other. 0, from scratch, where none is held."""
    root = root_of(recorded.run)
    newest = next((one.step for one in recorded.run.checkpoints if one.path == root / incident.checkpoint), 0)
    before = [one for one in usable(recorded) if one.step <= newest]
    best = max(before, key=lambda one: (not one.parameters_only, one.step), default=None)
    return 0 if best is None else best.step


def _changes(
    asked: ReplayRequest, recorded: RecordedRun, incident: Incident | None, start: int
) -> tuple[tuple[Change, ...], str]:
    """(changes, where they come from)."""
    if asked.changes is not None:
        return asked.changes, ""
    if incident is None:
        return (), " (no incident lies ahead)"
    at = f"{plain(incident.kind, 60)} at step {incident.onset_step}"
    if incident.skip_window is None:
        return (), f" (no batch is suspected of the {at}; `postmortem prove` tests what is)"
    first, last = max(incident.skip_window[0], recorded.index_at(start)), incident.skip_window[1]
    if first >= last:
        return (), f" (the suspect batches of the {at} lie behind)"
    return (Change("skip", ((first, last),)),), f" (suggested for the {at})"


def _planned(run: Run, spec: ReplaySpec, checkpoint: Path | None, why: str, imports: str) -> ReplayPlan:
    lines = (
        ("plan", _told(run, spec, checkpoint)),
        ("change", f"{_texts(spec.changes)}{why}"),
        ("bits", arithmetic_of(run.manifest.environment, spec.arithmetic, here=True).text),
    )
    return ReplayPlan(spec, lines, imports)


def _told(run: Run, spec: ReplaySpec, checkpoint: Path | None) -> str:
    source = "scratch"
    if checkpoint is not None:
        source = f"{checkpoint.parent.name}/{checkpoint.name}"
    lineage = "" if spec.attempt is None else f", as attempt {spec.attempt} saw it"
    return f"steps [{spec.from_step}, {spec.until}) of {plain(run.id, 100)}{lineage}, from {plain(source, 300)}"


def _texts(changes: Sequence[Change]) -> str:
    return ", ".join(make(change).text for change in changes) or "nothing: a null replay"
