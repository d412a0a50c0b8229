"""Checks whether a run could be rolled back if it spiked now: one check for each thing that a rollback needs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from postmortem.checkpoint.inspection import Inspection, Progress
from postmortem.checkpoint.inventory import PossibleCheckpoint, possible_checkpoints
from postmortem.checkpoint.plan import readable_size
from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.text import plain

READ_LIMIT = 2 * 10**9
"""Bytes up to which the checkpoint of a rollback is read completely; of a larger one, only the metadata are read."""
MOST_REPEATED = 500
"""Steps that a rollback may repeat: more are a day lost on a large run, and the incident is far from its start."""

_REQUIRED = ("model", "moments")
_RECOMMENDED = ("loader", "rng")


@dataclass(frozen=True)
class ReadinessCheck:
    """One thing that a rollback needs: what was measured (`figure`), and the fix in one line if it is not `ok`."""

    name: str
    state: Literal["ok", "warn", "fail"]
    figure: str
    fix: str = ""


@dataclass(frozen=True)
class Readiness:
    """All checks of one run. `target` is the checkpoint that a rollback would use now, by its name in the run."""

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
        warnings = f"; {warned} warning{'s' if warned > 1 else ''}" if warned else ""
        return f"yes, to step {self.target_step}; {_repeated_steps(self.lost_steps or 0)}{warnings}"


@dataclass(frozen=True)
class _Evidence:
    """What the checks use. `target` is the newest checkpoint that is sound and has weights and moments."""

    run: Run
    newest_step: int
    inspected: tuple[tuple[PossibleCheckpoint, Inspection], ...]
    target: Inspection | None
    free_bytes: int


def check_readiness(run: Run, on_progress: Progress = lambda done, total: None) -> Readiness:
    """Check `run` against what a rollback would need now. `on_progress` gets (bytes read, bytes in all)."""
    inspected = _inspect_all(run)
    newest_step = int(run.row_steps[-1])
    chosen = _choose_target(inspected, newest_step, on_progress)
    target = None if chosen is None else chosen[1]
    free = shutil.disk_usage(run.root or run.path.parent).free
    evidence = _Evidence(run, newest_step, tuple(inspected), target, free)
    lost = None if target is None or target.step is None else newest_step + 1 - target.step
    checks = tuple(check for part in _CHECKS for check in part(evidence))
    shown = None if chosen is None else chosen[0].shown
    return Readiness(run.id, newest_step, shown, None if target is None else target.step, lost, checks)


def _inspect_all(run: Run) -> list[tuple[PossibleCheckpoint, Inspection]]:
    try:
        candidates = possible_checkpoints(run.root, run.journal) if run.root is not None else []
    except UnreadableInput:
        return []
    return [(candidate, candidate.inspect(deep=False, pieces=False)) for candidate in candidates]


def _choose_target(
    inspected: list[tuple[PossibleCheckpoint, Inspection]], newest_step: int, on_progress: Progress
) -> tuple[PossibleCheckpoint, Inspection] | None:
    """The newest checkpoint that a rollback can use. It is read completely; if that shows damage or non-finite
    elements, the next older one is read, and so on. `inspected` is updated with the results. If all usable checkpoints
    have non-finite elements, the newest of them is returned."""
    nonfinite: tuple[PossibleCheckpoint, Inspection] | None = None
    for i in sorted(range(len(inspected)), key=lambda i: inspected[i][1].step or 0, reverse=True):
        candidate, inspection = inspected[i]
        if not _is_usable(inspection, newest_step):
            continue
        inspection = candidate.inspect(deep=inspection.size_bytes <= READ_LIMIT, on_progress=on_progress)
        inspected[i] = (candidate, inspection)
        if _is_usable(inspection, newest_step) and not inspection.known_nonfinite:
            return inspected[i]
        if _is_usable(inspection, newest_step) and nonfinite is None:
            nonfinite = inspected[i]
    return nonfinite


def _is_usable(inspection: Inspection, newest_step: int) -> bool:
    """Whether it is sound, of this history, and has all that an update needs. Plain SGD has no moments."""
    complete = inspection.declared == "full" or set(_REQUIRED) <= set(inspection.contents)
    step = inspection.step
    return (
        inspection.sound and complete and inspection.discarded is None and step is not None and step <= newest_step + 1
    )


def _checkpoint(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    name, target = "checkpoint", evidence.target
    if target is None or target.step is None:
        figure = f"{len(evidence.inspected)} found, none of them sound and full" if evidence.inspected else "none found"
        fix = "save the full state at a cadence: Checkpointer(recorder, TrainState(model=…, optimizer=…))"
        yield ReadinessCheck(name, "fail", figure, fix)
        return
    lost = evidence.newest_step + 1 - target.step
    every = _cadence(evidence)
    ended = _has_ended(evidence.run)
    figure = f"newest at step {target.step}, newest row {evidence.newest_step}: {_repeated_steps(lost)}"
    figure += f", saved every {every} steps" if every is not None else ""
    if max(lost, every or 0) > MOST_REPEATED and (ended or every is None or lost <= 1.2 * every):
        yield ReadinessCheck(
            name, "warn", figure, "too coarse for a rollback; save every 100 steps: rollback_every: 100"
        )
    elif every is not None and lost > 1.2 * every and not ended:
        late = f"there is no usable one after step {target.step}, although one was due every {every} steps"
        fix = "look for checkpoint_failed in journal.jsonl; nothing to do if the files were removed"
        yield ReadinessCheck(name, "warn", f"{late}; newest row {evidence.newest_step}: {_repeated_steps(lost)}", fix)
    else:
        yield ReadinessCheck(name, "ok", figure)


def _has_ended(run: Run) -> bool:
    """Whether its journal says so, and nothing came after that."""
    last = max(run.journal.of("run_start", "reopen", "resume", "run_end"), key=lambda event: event.line, default=None)
    return last is not None and last.event == "run_end"


def _cadence(evidence: _Evidence) -> int | None:
    """Steps between two saves, by the journal and by the checkpoints that exist."""
    saved = set(evidence.run.journal.steps("checkpoint"))
    saved |= {i.step for _, i in evidence.inspected if i.step is not None and i.role != "best-k"}
    gaps = np.diff(sorted(step for step in saved if step <= evidence.newest_step + 1))
    return int(np.median(gaps)) if gaps.size else None


def _completeness(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    saved = [pair for pair in evidence.inspected if not pair[1].temporary and not pair[0].refused]
    cut = [candidate.shown for candidate, inspection in saved if not inspection.complete]
    if cut:
        yield ReadinessCheck(
            "completeness", "warn", f"{len(cut)} of {len(saved)} cut short: {_first_names(cut)}", "remove them"
        )
    elif saved:
        yield ReadinessCheck("completeness", "ok", f"all {len(saved)} complete")


def _full_state(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    name = "full state"
    partial = [i for _, i in evidence.inspected if i.role == "rollback" and i.declared == "parameters"]
    if evidence.target is None:
        contents = {content for _, inspection in evidence.inspected for content in inspection.contents}
        missing = [content for content in _REQUIRED if content not in contents]
        if evidence.inspected and missing:
            fix = "save the optimizer with the model; without it, a rollback is an optimizer reset"
            yield ReadinessCheck(name, "fail", f"no checkpoint has {' or '.join(missing)}", fix)
        return
    missing = [content for content in _RECOMMENDED if content not in evidence.target.contents]
    inside = ", ".join(evidence.target.contents)
    if missing:
        fix = f"give TrainState {' and '.join(f'{content}=…' for content in missing)}"
        yield ReadinessCheck(name, "warn", f"{inside}; without {' and '.join(missing)}", fix)
    elif partial:
        fix = "rollback_contents: full; a rollback to parameters only is an optimizer reset"
        yield ReadinessCheck(name, "warn", f"{inside}; but rollback checkpoints have only parameters", fix)
    else:
        yield ReadinessCheck(name, "ok", inside)


def _soundness(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    bad = [pair for pair in evidence.inspected if pair[1].problems and (pair[1].complete or pair[0].refused)]
    if bad:
        figure = f"{len(bad)} of {len(evidence.inspected)} damaged or refused: {bad[0][1].problems[0]}"
        yield ReadinessCheck("soundness", "warn", figure, "postmortem checkpoints RUN lists all of them; remove them")
    elif evidence.target is not None:
        checksums = evidence.target.checksums
        figures = {
            "not read": "metadata and sizes agree; the newest is too large to be read completely here",
            "absent": "no checksums are stored",
        }
        yield ReadinessCheck("soundness", "ok", figures.get(checksums, f"checksums of the newest: {checksums}"))


def _finite(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    name = "finite"
    first = min(evidence.run.journal.steps("nonfinite_parameters"), default=None)
    nonfinite = [inspection for _, inspection in evidence.inspected if inspection.known_nonfinite]
    older = "use an older checkpoint: postmortem checkpoints RUN shows which is finite"
    if nonfinite:
        newest = max(nonfinite, key=lambda inspection: inspection.step or 0)
        counts = newest.known_nonfinite or {}
        names = _first_names(sorted(counts))
        figure = f"{sum(counts.values())} non-finite elements at step {newest.step} in {names}"
        yield ReadinessCheck(name, "fail" if evidence.target in nonfinite else "warn", figure, older)
    elif first is not None and evidence.target is not None and first < (evidence.target.step or 0):
        yield ReadinessCheck(
            name, "fail", f"parameters are non-finite from step {first} on, before the checkpoint", older
        )
    elif first is not None:
        yield ReadinessCheck(
            name, "warn", f"parameters are non-finite from step {first} on", "roll back to before that step"
        )
    elif evidence.target is not None and evidence.target.known_nonfinite is not None:
        recorded = "" if evidence.target.nonfinite is not None else ", as its save recorded"
        yield ReadinessCheck(name, "ok", f"all {evidence.target.tensors} tensors of the newest are finite{recorded}")
    elif evidence.target is not None:
        figure = f"the newest was not looked at: it has {readable_size(evidence.target.size_bytes)}"
        yield ReadinessCheck(name, "warn", figure, "look at it: postmortem checkpoints RUN")


def _loader(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    name, program = "skippable loader", evidence.run.manifest.program
    if "batch_index" not in evidence.run.columns:
        fix = "rec.batch(step, batch, index=…) with the absolute index of the batch"
        yield ReadinessCheck(
            name, "warn", "batch_index is not logged: a bad batch can be neither named nor skipped", fix
        )
    elif not program:
        fix = 'Recorder(…, manifest={"program": "module:factory"}), see docs/run-format.md'
        yield ReadinessCheck(name, "warn", "batch_index is logged, but run.json names no program to run", fix)
    else:
        yield ReadinessCheck(name, "ok", f"batch_index is logged, program {plain(program, 80)}")


def _hashes(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    hashes = evidence.run.labels("batch_hash")
    if hashes is None:
        fix = "rec.batch(step, batch) hashes every batch"
        yield ReadinessCheck("batch hashes", "warn", "not logged: no check that a replay gets the same batches", fix)
    else:
        yield ReadinessCheck("batch hashes", "ok", f"logged at {len(hashes)} of {len(evidence.run.row_steps)} steps")


def _replicas(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    """The first step at which ranks have different parameters, and which ranks are in the minority."""
    name, ranks = "replicas", evidence.run.ranks
    if len(ranks) < 2:
        return
    by_step: dict[int, dict[int, object]] = {}
    for rank in ranks:
        labels = evidence.run.labels(f"param_hash/rank{rank}")
        for step, value in zip(labels.step, labels.value, strict=True) if labels is not None else ():
            by_step.setdefault(int(step), {})[rank] = value
    compared = {step: hashes for step, hashes in by_step.items() if len(hashes) > 1}
    if not compared:
        fix = "rec.watch(model, optimizer, hash_every=100)"
        yield ReadinessCheck(name, "warn", f"{len(ranks)} ranks, but their param_hash is not logged", fix)
        return
    first = min((step for step, hashes in compared.items() if len(set(hashes.values())) > 1), default=None)
    if first is None:
        yield ReadinessCheck(name, "ok", f"{len(ranks)} ranks agree at all {len(compared)} steps with a hash")
        return
    hashes = compared[first]
    common = Counter(hashes.values()).most_common(1)[0]
    minority = [f"rank {rank}" for rank, value in hashes.items() if value != common[0]]
    who = _first_names(minority) if common[1] > len(hashes) / 2 else "no majority"
    fix = f"roll back to before step {first}, and check the hardware of the ranks that differ"
    yield ReadinessCheck(name, "fail", f"ranks differ from step {first} on ({who})", fix)


def _disk(evidence: _Evidence) -> Iterator[ReadinessCheck]:
    largest = max((inspection.size_bytes for _, inspection in evidence.inspected if inspection.complete), default=0)
    if not largest:
        return
    figure = f"{readable_size(evidence.free_bytes)} free, a checkpoint takes {readable_size(largest)}"
    if evidence.free_bytes < largest:
        yield ReadinessCheck(
            "disk", "fail", figure, "free some space, or keep fewer: rollback_keep, recovery_keep, best_k"
        )
    elif evidence.free_bytes < 3 * largest:
        yield ReadinessCheck(
            "disk",
            "warn",
            figure,
            "space for less than three more; an old one is removed only after a new one is saved",
        )
    else:
        yield ReadinessCheck("disk", "ok", figure)


_CHECKS: tuple[Callable[[_Evidence], Iterator[ReadinessCheck]], ...] = (
    *(_checkpoint, _completeness, _full_state, _soundness, _finite),
    *(_loader, _hashes, _replicas, _disk),
)


def _repeated_steps(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'} would be repeated"


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return plain(", ".join(names[:3]), 200) + more
