"""Creates the run of a replay as a copy of its parent: the rows, the journal, and the checkpoint to start from.

So a replay is a run like any other: it can be drafted, diffed, resumed and replayed. Its parent is never written.
Parquet parts and checkpoint files are hard links where the file system has them: such files are replaced, not changed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postmortem.atomic import write_text
from postmortem.errors import CannotWrite, UnreadableInput, UsageError
from postmortem.jsonio import as_json
from postmortem.record.lock import attempt_of_writer
from postmortem.record.writer import update_manifest
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.recorded import ChangeSet, RecordedRun
from postmortem.text import plain

SPEC_FILE = "replay.json"

_TABLES = ("metrics", "batches")


def copy_parent_run(recorded: RecordedRun, spec: ReplaySpec, checkpoint: Path | None) -> Path | None:
    """Create the run directory `spec.out`; return the copy of `checkpoint` in it. An interrupted replay is replaced.

    Raises:
        UsageError: the folder contains something else, or the parent is no run directory.
    """
    root, out = replayable_root(recorded.run), Path(spec.out)
    if root.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{plain(out, 1000)}: is the replayed run, or contains it; choose another folder with --out")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / SPEC_FILE).is_file())):
        raise UsageError(f"{plain(out, 1000)}: already exists and is no replay; choose another folder with --out")
    if out.is_dir() and attempt_of_writer(out, 0) is not None:
        raise UsageError(
            f"{plain(out, 1000)}: another replay is writing to it; wait, or choose another folder with --out"
        )
    staging = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    with explained_write_errors(out):
        return _fill_copy(recorded, spec, checkpoint, root, staging)


def _fill_copy(
    recorded: RecordedRun, spec: ReplaySpec, checkpoint: Path | None, root: Path, staging: Path
) -> Path | None:
    """Fill the folder `staging` with the copy, then move it to `spec.out`."""
    out = Path(spec.out)
    staging.mkdir(parents=True)
    try:
        for table in _TABLES:
            if (root / table).is_dir():
                _copy(root, root / table, staging / table)
        for name in ("journal.jsonl", "run.json", recorded.run.manifest.vocab):
            if name is not None and inside(root, name, "run.json").is_file():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, staging / name)
        checkpoint_path = None
        if checkpoint is not None:
            checkpoint_path = checkpoint.resolve().relative_to(root.resolve())
            _copy(root.resolve(), checkpoint.resolve(), staging / checkpoint_path)
        lineage = _lineage_entry(recorded, spec)
        update_manifest(staging, lambda old: {**old, "id": out.name, "lineage": lineage})
        write_text(staging / SPEC_FILE, spec.to_json())
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return None if checkpoint_path is None else out / checkpoint_path


@contextmanager
def explained_write_errors(folder: Path) -> Generator[None]:
    """Turn an OSError into CannotWrite, which says what could not be written and what to do about it."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = folder if full else error.filename or folder
        raise CannotWrite(
            f"{plain(where, 1000)}: {error.strerror or plain(error, 200)}. "
            f"{'Free some space' if full else 'Fix this'}, or choose another folder with --out"
        ) from error


def replayable_root(run: Run) -> Path:
    """The directory of a run that can be replayed. Raises UsageError if the run is only a log."""
    if run.root is None or not (run.root / "metrics").is_dir():
        raise UsageError(
            f"{plain(run.path, 1000)}: only a run directory that a recorder wrote can be replayed; this is only a log"
        )
    return run.root


def _lineage_entry(recorded: RecordedRun, spec: ReplaySpec) -> Mapping[str, Any]:
    """The entry `lineage` of run.json: where the run comes from. `phases` are all changes that were active in it."""
    change_sets = (*recorded.earlier_change_sets, ChangeSet(spec.from_step, spec.changes))
    return {
        "run": recorded.run.id,
        "from_step": spec.from_step,
        "reason": spec.reason,
        "changes": [str(change) for change in spec.changes],
        "phases": [as_json(change_set) for change_set in change_sets if change_set.changes],
    }


def _copy(root: Path, source: Path, target: Path) -> None:
    """Copy a folder of the run, or one file. Files are hard links where possible; a journal is always copied."""
    is_folder = source.is_dir()
    (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()) if is_folder else [source]:
        resolved = inside(root, str(file.relative_to(root)), plain(root, 1000))
        if file.is_symlink() or resolved != file.resolve():
            raise UnreadableInput("is a link; a run may contain only its own files.", file=plain(file, 1000))
        if file.is_dir():
            _copy(root, file, target / file.name)
            continue
        destination = target / file.name if is_folder else target
        if file.suffix == ".jsonl" or not _try_link(file, destination):
            shutil.copyfile(file, destination)


def _try_link(file: Path, target: Path) -> bool:
    try:
        os.link(file, target)
    except OSError:  # the target is on another file system, or on one without links
        return False
    return True
