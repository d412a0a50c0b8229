"""Could this run be rolled back if it spiked now? What a rollback needs, one check each, with the fix."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from postmortem.checkpoint.inspection import Inspection, Progress
from postmortem.checkpoint.inventory import PossibleCheckpoint, candidates
from postmortem.checkpoint.plan import spelled
from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.text import plain

READ_LIMIT = 2 * 10**9
"""Bytes up to which the checkpoint that would be gone back to is read in full; of a larger one, only the tables."""
_NEEDED = ("model", "moments")
_WANTED = ("loader", "rng")


@dataclass(frozen=True)
class ReadinessCheck:
    """One thing that a rollback needs: the figure found, and the fix in one line where it is not `ok`."""

    name: str
    state: Literal["ok", "warn", "fail"]
    figure: str
    fix: str = ""


@dataclass(frozen=True)
class Readiness:
    """All checks of one run. `target` is the checkpoint that a rollback would take now, as it is named in the run."""

    run: str
    newest_step: int
    target: str | None
    target_step: int | None
    lost_steps: int | None
    checks: tuple[ReadinessCheck, ...]

    @property
    def ready(self) -> bool:
        """Whether a rollback would work: no check failed."""
        return all(check.state != "fail" for check in self.checks)

    @property
    def verdict(self) -> str:
        """The answer in one line."""
        failed = [check.name for check in self.checks if check.state == "fail"]
        warned = sum(check.state == "warn" for check in self.checks)
        if failed:
            return f"no: {', '.join(failed)}"
        mend = f", with {warned} thing{'s' if warned > 1 else ''} to mend" if warned else ""
        return f"yes, to step {self.target_step}; {self.lost_steps} steps would be done again{mend}"


@dataclass(frozen=True)
class _Facts:
    """What the checks look at. `target` is the newest checkpoint that is sound and holds weights and moments."""

    run: Run
    newest_step: int
    found: tuple[tuple[PossibleCheckpoint, Inspection], ...]
    target: Inspection | None
    free_bytes: int


def examine(run: Run, on_progress: Progress = lambda done, total: None) -> Readiness:
    """Hold `run` against what a rollback would need now. `on_progress` hears (bytes, bytes in all) of what is read."""
    found = _found(run)
    newest_step = int(run.row_steps[-1])
    chosen = _choose(found, newest_step, on_progress)
    target = None if chosen is None else chosen[1]
    free = shutil.disk_usage(run.root or run.path.parent).free
    facts = _Facts(run, newest_step, tuple(found), target, free)
    lost = None if target is None or target.step is None else newest_step + 1 - target.step
    checks = tuple(check for part in _CHECKS for check in part(facts))
    shown = None if chosen is None else chosen[0].shown
    return Readiness(run.id, newest_step, shown, None if target is None else target.step, lost, checks)


def _found(run: Run) -> list[tuple[PossibleCheckpoint, Inspection]]:
    try:
        some = candidates(run.root) if run.root is not None else []
    except UnreadableInput:
        return []
    return [(candidate, candidate.inspect(deep=False)) for candidate in some]


def _choose(
    found: list[tuple[PossibleCheckpoint, Inspection]], newest_step: int, on_progress: Progress
) -> tuple[PossibleCheckpoint, Inspection] | None:
    """The newest checkpoint that can be gone back to. It is read in full, and so is the next older one where reading
    shows damage or non-finite elements; `found` then holds what was seen. Of none but non-finite ones, the newest."""
    second: tuple[PossibleCheckpoint, Inspection] | None = None
    for i in sorted(range(len(found)), key=lambda i: found[i][1].step or 0, reverse=True):
        candidate, one = found[i]
        if not _usable(one, newest_step):
            continue
        if one.size_bytes <= READ_LIMIT:
            one = candidate.inspect(deep=True, on_progress=on_progress)
            found[i] = (candidate, one)
        if _usable(one, newest_step) and not one.nonfinite:
            return found[i]
        if _usable(one, newest_step) and second is None:
            second = found[i]
    return second


def _usable(one: Inspection, newest_step: int) -> bool:
    """Sound, of this history, and holding what an update needs. Plain SGD has no moments and says that it is full."""
    whole = one.declared == "full" or set(_NEEDED) <= set(one.contents)
    return one.sound and whole and one.discarded is None and one.step is not None and one.step <= newest_step + 1


def _checkpoint(facts: _Facts) -> Iterator[ReadinessCheck]:
    name, target = "checkpoint", facts.target
    if target is None or target.step is None:
        held = f"{len(facts.found)} found, none of them sound and full" if facts.found else "none found"
        fix = "save the full state at a cadence: Checkpointer(recorder, TrainState(model=…, optimizer=…))"
        yield ReadinessCheck(name, "fail", held, fix)
        return
    lost = facts.newest_step + 1 - target.step
    every = _cadence(facts)
    said = f"newest at step {target.step}, newest row {facts.newest_step}: {lost} steps would be done again"
    if every is None:
        yield ReadinessCheck(name, "ok" if lost <= 1000 else "warn", said, "save at a cadence: rollback_every: 100")
    elif lost > 1.2 * every:
        fix = "saving has stopped: look for checkpoint_failed in journal.jsonl"
        yield ReadinessCheck(name, "warn", f"{said}; one was due every {every}", fix)
    else:
        yield ReadinessCheck(name, "ok", f"{said}, saved every {every}")


def _cadence(facts: _Facts) -> int | None:
    """Steps between two saves, by the journal and by what is there."""
    saved = {event.step for event in facts.run.journal if event.event == "checkpoint" and event.step is not None}
    saved |= {one.step for _, one in facts.found if one.step is not None and one.role != "best-k"}
    gaps = np.diff(sorted(step for step in saved if step <= facts.newest_step + 1))
    return int(np.median(gaps)) if gaps.size else None


def _completeness(facts: _Facts) -> Iterator[ReadinessCheck]:
    done = [(candidate, one) for candidate, one in facts.found if not one.temporary and not candidate.refused]
    cut = [candidate.shown for candidate, one in done if not one.complete]
    if cut:
        yield ReadinessCheck(
            "completeness", "warn", f"{len(cut)} of {len(done)} cut short: {_listed(cut)}", "remove them"
        )
    elif done:
        yield ReadinessCheck("completeness", "ok", f"all {len(done)} complete")


def _full_state(facts: _Facts) -> Iterator[ReadinessCheck]:
    name = "full state"
    partial = [one for _, one in facts.found if one.role == "rollback" and one.declared == "parameters"]
    if facts.target is None:
        held = {content for _, one in facts.found for content in one.contents}
        lacking = [content for content in _NEEDED if content not in held]
        if facts.found and lacking:
            fix = "save the optimizer with the model; without it, going back is an optimizer reset"
            yield ReadinessCheck(name, "fail", f"no checkpoint holds {' or '.join(lacking)}", fix)
        return
    lacking = [content for content in _WANTED if content not in facts.target.contents]
    inside = ", ".join(facts.target.contents)
    if lacking:
        fix = f"give TrainState {' and '.join(f'{content}=…' for content in lacking)}"
        yield ReadinessCheck(name, "warn", f"{inside}; without {' and '.join(lacking)}", fix)
    elif partial:
        fix = "rollback_contents: full; going back to parameters only is an optimizer reset"
        yield ReadinessCheck(name, "warn", f"{inside}; but rollback checkpoints hold parameters only", fix)
    else:
        yield ReadinessCheck(name, "ok", inside)


def _soundness(facts: _Facts) -> Iterator[ReadinessCheck]:
    bad = [(candidate, one) for candidate, one in facts.found if one.problems and (one.complete or candidate.refused)]
    if bad:
        figure = f"{len(bad)} of {len(facts.found)} damaged or refused: {bad[0][1].problems[0]}"
        yield ReadinessCheck("soundness", "warn", figure, "postmortem checkpoints RUN tells all; remove them")
    elif facts.target is not None:
        read = facts.target.checksums
        said = {"not read": "tables and sizes agree; too large to read in full here", "absent": "no checksums stored"}
        yield ReadinessCheck("soundness", "ok", said.get(read, f"checksums of the newest {read}"))


def _finite(facts: _Facts) -> Iterator[ReadinessCheck]:
    name = "finite"
    events = [event for event in facts.run.journal if event.event == "nonfinite_parameters" and event.step is not None]
    first = min((event.step for event in events if event.step is not None), default=None)
    spoilt = [one for _, one in facts.found if one.nonfinite]
    older = "go back to an older checkpoint: postmortem checkpoints RUN shows which is finite"
    if spoilt:
        newest = max(spoilt, key=lambda one: one.step or 0)
        named = _listed(sorted(newest.nonfinite or ()))
        figure = f"{sum((newest.nonfinite or {}).values())} non-finite elements at step {newest.step} in {named}"
        yield ReadinessCheck(name, "fail" if facts.target in spoilt else "warn", figure, older)
    elif first is not None and facts.target is not None and first < (facts.target.step or 0):
        yield ReadinessCheck(
            name, "fail", f"parameters are non-finite from step {first} on, before the checkpoint", older
        )
    elif first is not None:
        yield ReadinessCheck(
            name, "warn", f"parameters are non-finite from step {first} on", "roll back to before that step"
        )
    elif facts.target is not None and facts.target.nonfinite is not None:
        yield ReadinessCheck(name, "ok", f"all {facts.target.tensors} tensors of the newest are finite")


def _loader(facts: _Facts) -> Iterator[ReadinessCheck]:
    name, program = "skippable loader", facts.run.manifest.program
    if "batch_index" not in facts.run.columns:
        fix = "rec.batch(step, batch, index=…) with the absolute index of the batch"
        yield ReadinessCheck(name, "warn", "no batch_index is logged: a bad batch cannot be named, nor skipped", fix)
    elif not program:
        fix = 'Recorder(…, manifest={"program": "module:factory"}), see docs/run-format.md'
        yield ReadinessCheck(name, "warn", "batch_index is logged, but no program is named to drive", fix)
    else:
        yield ReadinessCheck(name, "ok", f"batch_index is logged, program {plain(program, 80)}")


def _hashes(facts: _Facts) -> Iterator[ReadinessCheck]:
    hashes = facts.run.labels("batch_hash")
    if hashes is None:
        fix = "rec.batch(step, batch) hashes every batch"
        yield ReadinessCheck(
            "batch hashes", "warn", "not logged: it cannot be shown that a replay sees the same batches", fix
        )
    else:
        yield ReadinessCheck("batch hashes", "ok", f"logged at {len(hashes)} of {len(facts.run.row_steps)} steps")


def _replicas(facts: _Facts) -> Iterator[ReadinessCheck]:
    """The first step at which ranks hold different parameters, and which of them are in the minority."""
    name, ranks = "replicas", facts.run.ranks
    if len(ranks) < 2:
        return
    by_step: dict[int, dict[int, object]] = {}
    for rank in ranks:
        labels = facts.run.labels(f"param_hash/rank{rank}")
        for step, value in zip(labels.step, labels.value, strict=True) if labels is not None else ():
            by_step.setdefault(int(step), {})[rank] = value
    compared = {step: held for step, held in by_step.items() if len(held) > 1}
    if not compared:
        fix = "rec.watch(model, optimizer, hash_every=100)"
        yield ReadinessCheck(name, "warn", f"{len(ranks)} ranks, and no param_hash of them is logged", fix)
        return
    parted = min((step for step, held in compared.items() if len(set(held.values())) > 1), default=None)
    if parted is None:
        yield ReadinessCheck(name, "ok", f"{len(ranks)} ranks agree at all {len(compared)} steps that were hashed")
        return
    held = compared[parted]
    common = Counter(held.values()).most_common(1)[0]
    odd = [f"rank {rank}" for rank, value in held.items() if value != common[0]]
    who = _listed(odd) if common[1] > len(held) / 2 else "no majority"
    fix = f"go back to before step {parted}, and check the hardware of what differs"
    yield ReadinessCheck(name, "fail", f"ranks differ from step {parted} on ({who})", fix)


def _disk(facts: _Facts) -> Iterator[ReadinessCheck]:
    largest = max((one.size_bytes for _, one in facts.found if one.complete), default=0)
    if not largest:
        return
    said = f"{spelled(facts.free_bytes)} free, a checkpoint takes {spelled(largest)}"
    if facts.free_bytes < largest:
        yield ReadinessCheck(
            "disk", "fail", said, "free some room, or keep fewer: rollback_keep, recovery_keep, best_k"
        )
    elif facts.free_bytes < 3 * largest:
        yield ReadinessCheck(
            "disk", "warn", said, "room for less than three more, and the old one goes only after the new one"
        )
    else:
        yield ReadinessCheck("disk", "ok", said)


_CHECKS: tuple[Callable[[_Facts], Iterator[ReadinessCheck]], ...] = (
    *(_checkpoint, _completeness, _full_state, _soundness, _finite),
    *(_loader, _hashes, _replicas, _disk),
)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return plain(", ".join(names[:3]), 200) + more
