"""Reads a replay that a record names, and checks that it is a replay of this run: a record may come from a stranger.

What is checked against the run's own rows is what a replay cannot make up without being noticed: it begins where the
run was, and its null replay can be compared with the run bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from postmortem.atomic import real_path
from postmortem.change import Change
from postmortem.diagnosis import Experiment
from postmortem.errors import UnreadableInput
from postmortem.jsonio import read_record
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.recorded import IDENTITY_COLUMNS, RecordedRun
from postmortem.run.replayed import RESULT_FILE, SPEC_FILE, ReplayResult, Tally
from postmortem.series import Steps

Opener: TypeAlias = Callable[[Path], Run]
"""Reads the run at a path."""


class NoEvidence(Exception):
    """Why a replay that a record names shows nothing, in words. `gone`: it is not there."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


@dataclass(frozen=True)
class DrivenSteps:
    """The part of a replay's spec that says what it is: the steps [from_step, until) of a lineage, and the changes."""

    from_step: int
    until: int
    changes: tuple[Change, ...]
    attempt: int | None = None


@dataclass(frozen=True)
class RecordedReplay:
    """A replay that lies in the run: its spec, its result, its rows."""

    spec: DrivenSteps
    result: ReplayResult
    run: Run


def read_evidence(run: Run, claim: Experiment, open_at: Opener) -> RecordedReplay:
    """The replay that `claim` names.

    Raises:
        NoEvidence: there is none, or it is another replay.
    """
    folder = _folder(run, claim)
    try:
        spec = read_record(DrivenSteps, folder / SPEC_FILE, "the spec of a replay")
        result = read_record(ReplayResult, folder / RESULT_FILE, "the result of a replay")
        replayed = open_at(folder)
    except (UnreadableInput, OSError) as error:
        raise NoEvidence("a replay cannot be read") from error
    steps = (spec.from_step, spec.until)
    if spec.changes != claim.changes or steps != (claim.from_step, claim.from_step + claim.steps):
        raise NoEvidence("a folder holds another replay than the record says")
    if (result.from_step, result.until) != steps or not result.from_step < result.until:
        raise NoEvidence("the result in a folder is of another replay")
    return RecordedReplay(spec, result, replayed)


def _folder(run: Run, claim: Experiment) -> Path:
    """The folder of a replay, after a look at where it leads."""
    assert run.root is not None
    try:
        folder = inside(run.root, claim.run, "proof.json")
        files = [inside(run.root, str(folder / name), "proof.json") for name in (SPEC_FILE, RESULT_FILE)]
    except UnreadableInput as error:
        raise NoEvidence("the folder of a replay leads outside the run") from error
    if folder == real_path(run.root):
        raise NoEvidence("the folder of a replay is the run itself")
    if not all(file.is_file() for file in files) or not (folder / "metrics").is_dir():
        raise NoEvidence("replays gone", gone=True)
    return folder


def require_replay_of(parent: Run, replay: RecordedReplay, attempt: int | None) -> None:
    """Check that a replay continues `parent` from the lineage `attempt`: by what it says of its origin, and by its rows
    before the first replayed step.

    Raises:
        NoEvidence: it does not.
    """
    spec, lineage = replay.spec, replay.run.manifest.lineage or {}
    origin = (lineage.get("run"), lineage.get("from_step"), lineage.get("changes"))
    if spec.attempt != attempt or origin != (parent.id, spec.from_step, [str(c) for c in spec.changes]):
        raise NoEvidence("a replay is one of another run, or of other changes")
    newest = max(replay.run.segments, key=lambda segment: segment.attempt, default=None)
    own = None if newest is None or newest.attempt == 0 else (newest.first_step, newest.last_step)
    if own != (spec.from_step, spec.until - 1):
        raise NoEvidence("the rows of a replay are not those of its steps")
    different = first_difference(parent, replay.run, 0, spec.from_step)
    if different:
        raise NoEvidence(f"the rows from which a replay starts are not the run's: {different}")


def require_trace(parent: Run, replay: RecordedReplay) -> None:
    """Check that the changes of a replay left a trace in its rows: rows that equal its parent's show no change.

    Raises:
        NoEvidence: nothing differs in the replayed steps.
    """
    if all(change.name == "noise" for change in replay.spec.changes) and "param_hash" not in parent.columns:
        return  # the last bits of the parameters need not reach the loss
    if not first_difference(parent, replay.run, replay.spec.from_step, replay.spec.until, replay.spec.attempt):
        raise NoEvidence("the rows of a changed replay are a copy")


def first_difference(parent: Run, replayed: Run, first: int, last: int, attempt: int | None = None) -> str:
    """The first difference of two runs in the steps [first, last), as "loss at step 17"; "" if there is none. A column
    that the parent does not have is left out. `attempt`: the lineage of the parent."""
    for name in IDENTITY_COLUMNS:
        steps, values = _window(parent, name, first, last, attempt)
        other_steps, other_values = _window(replayed, name, first, last, None)
        if not steps.size:
            continue
        common = min(steps.size, other_steps.size)
        equal = (steps[:common] == other_steps[:common]) & _equal(values[:common], other_values[:common])
        if not equal.all():
            return f"{name} at step {int(steps[int(np.argmin(equal))])}"
        if steps.size != other_steps.size:
            longer = steps if steps.size > common else other_steps
            return f"{name} at step {int(longer[common])}"
    return ""


def _window(run: Run, name: str, first: int, last: int, attempt: int | None) -> tuple[Steps, NDArray[Any]]:
    of_text = name.endswith("_hash")
    column = run.labels(name, attempt=attempt) if of_text else run.series(name, attempt=attempt)
    if column is None:
        return np.zeros(0, np.int64), np.zeros(0)
    low, high = np.searchsorted(column.step, [first, last])
    return column.step[low:high], column.value[low:high]


def _equal(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are equal; NaN equals NaN."""
    return np.asarray((a == b) | ((a != a) & (b != b)), dtype=np.bool_)  # noqa: PLR0124 - only NaN differs from itself


def compared_again(parent: Run, replay: RecordedReplay) -> ReplayResult:
    """The result of a replay, whose comparison with `parent` was done again from the rows of both.

    Raises:
        NoEvidence: it does not come out as it did when the replay was driven, or its data were others.
    """
    spec, result, tallies = replay.spec, replay.result, list[Tally]()
    resharded = parent.manifest.world_size not in (None, replay.run.manifest.world_size)
    names = [name for name in IDENTITY_COLUMNS if not (resharded and name.endswith("_hash"))]
    for rank in replay.run.ranks or (0,):
        then, now = RecordedRun(parent, spec.attempt, rank), RecordedRun(replay.run, None, rank)
        recorded, replayed = (
            {name: side.rows(name, spec.from_step, spec.until) for name in names} for side in (then, now)
        )
        tally = Tally()
        for step in sorted(set[int]().union(*recorded.values())):
            tally.compare(
                step,
                {name: rows.get(step) for name, rows in recorded.items()},
                {name: rows.get(step) for name, rows in replayed.items()},
            )
        tallies.append(tally)
    total = Tally.of_ranks(tallies)
    differences = sorted(total.first.values(), key=lambda each: (each.step, IDENTITY_COLUMNS.index(each.column)))
    first = {difference.column: difference.step for difference in result.differences}
    now_first = {column: difference.step for column, difference in total.first.items()}
    if (first, dict(result.departed)) != (now_first, total.differing_rows):
        changed = {*first.items()} ^ {*now_first.items()} or {*now_first.items()}
        column, step = min(changed, key=lambda place: place[::-1])
        raise NoEvidence(f"run and replay differ otherwise than when it was driven: {column} at step {step}")
    if not spec.changes and "batch_hash" in now_first:
        raise NoEvidence("a null replay consumed other batches than the run")
    return replace(
        result,
        compared=total.compared,
        columns=tuple(sorted(total.columns)),
        differences=tuple(differences),
        departed=dict(total.differing_rows),
    )
