"""Creates the run of a replay as a copy of its parent: the rows, the journal, and the checkpoint to start from.

So a replay is a run like any other: it can be drafted, diffed, resumed and replayed. Its parent is never written.
Parquet parts and checkpoint files are hard links where the file system has them: such files are replaced, not changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postmortem.atomic import copy_file, make_folder, names_in, put_folder, real_path, saving, staged, write_text
from postmortem.errors import UnreadableInput, UsageError
from postmortem.jsonio import as_json
from postmortem.record.lock import attempt_of_writer
from postmortem.record.writer import update_manifest
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.recorded import ChangeSet, RecordedRun
from postmortem.run.replayed import SPEC_FILE
from postmortem.text import plain

REPLAYS = Path("postmortem", "replays")  # in a run: where its replays go unless a person names another place

_TABLES = ("metrics", "batches")


def copy_parent_run(recorded: RecordedRun, spec: ReplaySpec, checkpoint: Path | None) -> Path | None:
    """Create the run directory `spec.out`; return the copy of `checkpoint` in it. An interrupted replay is replaced.

    Raises:
        UsageError: the folder contains something else, or the parent is no run directory.
        CannotWrite: it cannot be written, or is below the replays of a run and leads outside that run.
    """
    root, out = replayable_root(recorded.run), Path(spec.out)
    if real_path(root).is_relative_to(real_path(out)):
        raise UsageError(f"{plain(out, 1000)}: is the replayed run, or contains it; choose another folder with --out")
    with saving(out, within=run_around(out)):
        if out.exists() and (not out.is_dir() or (names_in(out) and not (out / SPEC_FILE).is_file())):
            raise UsageError(f"{plain(out, 1000)}: already exists and is no replay; choose another folder with --out")
        if out.is_dir() and attempt_of_writer(out, 0) is not None:
            raise UsageError(
                f"{plain(out, 1000)}: another replay is writing to it; wait, or choose another folder with --out"
            )
        place = real_path(out)  # where a person's link leads: the link stays
        make_folder(place.parent)
        with staged(place) as stage:
            copied = _fill_copy(recorded, spec, checkpoint, root, stage)
            put_folder(stage, place)
    return None if copied is None else out / copied


def run_around(out: Path) -> Path | None:
    """The run whose folder of replays contains `out`, as the path says it; None if it contains none.

    Such a path is the tool's own choice, or may as well be: it must not leave the run by a link.
    """
    path = Path(os.path.normpath(out.absolute()))
    return next((folder.parents[1] for folder in path.parents if folder.parts[-2:] == REPLAYS.parts), None)


def _fill_copy(
    recorded: RecordedRun, spec: ReplaySpec, checkpoint: Path | None, root: Path, stage: Path
) -> Path | None:
    """Fill the folder `stage` with the copy; the path of the checkpoint in it."""
    for table in _TABLES:
        if (root / table).is_dir():
            _copy(root, root / table, stage / table)
    for name in ("journal.jsonl", "run.json", recorded.run.manifest.vocab):
        if name is not None and inside(root, name, "run.json").is_file():
            make_folder((stage / name).parent)
            copy_file(root / name, stage / name)
    checkpoint_path = None
    if checkpoint is not None:
        checkpoint_path = real_path(checkpoint).relative_to(real_path(root))
        _copy(real_path(root), real_path(checkpoint), stage / checkpoint_path)
    lineage = _lineage_entry(recorded, spec)
    update_manifest(stage, lambda old: {**old, "id": Path(spec.out).name, "lineage": lineage})
    write_text(stage / SPEC_FILE, spec.to_json())
    return checkpoint_path


def replayable_root(run: Run) -> Path:
    """The directory of a run that can be replayed. Raises UsageError if the run is only a log."""
    if run.root is None or not (run.root / "metrics").is_dir():
        raise UsageError(
            f"{plain(run.path, 1000)}: only a run directory that a recorder wrote can be replayed; this is only a log"
        )
    return run.root


def _lineage_entry(recorded: RecordedRun, spec: ReplaySpec) -> Mapping[str, Any]:
    """The entry `lineage` of run.json: where the run comes from. `phases` are all changes that were active in it; the
    rows of the first `inherited_attempts` attempts were trained by the parent."""
    change_sets = (*recorded.earlier_change_sets, ChangeSet(spec.from_step, spec.changes))
    return {
        "run": recorded.run.id,
        "from_step": spec.from_step,
        "reason": spec.reason,
        "inherited_attempts": max((s.attempt for s in recorded.run.segments), default=-1) + 1,
        "changes": [str(change) for change in spec.changes],
        "phases": [as_json(change_set) for change_set in change_sets if change_set.changes],
    }


def _copy(root: Path, source: Path, target: Path) -> None:
    """Copy a folder of the run, or one file. Files are hard links where possible; a journal is always copied."""
    is_folder = source.is_dir()
    make_folder(target if is_folder else target.parent)
    for file in sorted(source.iterdir()) if is_folder else [source]:
        resolved = inside(root, str(file.relative_to(root)), plain(root, 1000))
        if file.is_symlink() or resolved != real_path(file):
            raise UnreadableInput("is a link; a run may contain only its own files.", file=plain(file, 1000))
        if file.is_dir():
            _copy(root, file, target / file.name)
            continue
        destination = target / file.name if is_folder else target
        copy_file(file, destination, link=file.suffix != ".jsonl")
