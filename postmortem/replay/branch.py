"""A new run that begins as a copy of another one: its rows, its journal, and the checkpoint it goes on from.

So a replay is a run like any other: it can be drafted, diffed, resumed and replayed, and its parent is never written.
Parquet parts and checkpoint files are linked where the file system can: they are replaced, never changed.
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
from postmortem.record.lock import attempt_of_holder
from postmortem.record.writer import update_manifest
from postmortem.replay.spec import ReplaySpec
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.run.recorded import Phase, RecordedRun
from postmortem.text import plain

SPEC_FILE = "replay.json"

_TABLES = ("metrics", "batches")


def branch(recorded: RecordedRun, spec: ReplaySpec, checkpoint: Path | None) -> Path | None:
    """Make the run directory `spec.out`; the copy of `checkpoint` in it. A replay that broke off there is replaced.

    Raises:
        UsageError: the place holds something else, or the parent is no run directory.
    """
    root, out = root_of(recorded.run), Path(spec.out)
    if root.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{plain(out, 1000)}: is the run that is replayed, or holds it; choose another with --out")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / SPEC_FILE).is_file())):
        raise UsageError(f"{plain(out, 1000)}: is there already and no replay; choose another folder with --out")
    if out.is_dir() and attempt_of_holder(out, 0) is not None:
        raise UsageError(f"{plain(out, 1000)}: is being written by another replay; wait, or choose another --out")
    made = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    with writing(out):
        return _made(recorded, spec, checkpoint, root, made)


def _made(recorded: RecordedRun, spec: ReplaySpec, checkpoint: Path | None, root: Path, made: Path) -> Path | None:
    """The branch, put together in the folder `made` and then moved to its place."""
    out = Path(spec.out)
    made.mkdir(parents=True)
    try:
        for table in _TABLES:
            if (root / table).is_dir():
                _copy(root, root / table, made / table)
        for name in ("journal.jsonl", "run.json", recorded.run.manifest.vocab):
            if name is not None and inside(root, name, "run.json").is_file():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, made / name)
        copied = None
        if checkpoint is not None:
            copied = checkpoint.resolve().relative_to(root.resolve())
            _copy(root.resolve(), checkpoint.resolve(), made / copied)
        lineage = _lineage(recorded, spec)
        update_manifest(made, lambda before: {**before, "id": out.name, "lineage": lineage})
        write_text(made / SPEC_FILE, spec.to_json())
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return None if copied is None else out / copied


@contextmanager
def writing(place: Path) -> Generator[None]:
    """Say what could not be written: a full disk, or a place that is somebody else's. Raises CannotWrite."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = place if full else error.filename or place
        raise CannotWrite(
            f"{plain(where, 1000)}: {error.strerror or plain(error, 200)}. "
            f"{'Free some space' if full else 'Mend that'}, or choose another place with --out"
        ) from error


def root_of(run: Run) -> Path:
    """The directory of a run that can be replayed. Raises UsageError where it is a log alone."""
    if run.root is None or not (run.root / "metrics").is_dir():
        raise UsageError(
            f"{plain(run.path, 1000)}: only a run directory that a recorder wrote can be replayed; this is a log alone"
        )
    return run.root


def _lineage(recorded: RecordedRun, spec: ReplaySpec) -> Mapping[str, Any]:
    """What run.json tells of where the run comes from; `phases` are all changes that it is driven under."""
    phases = (*recorded.phases, Phase(spec.from_step, spec.changes))
    return {
        "run": recorded.run.id,
        "from_step": spec.from_step,
        "reason": spec.reason,
        "changes": [str(change) for change in spec.changes],
        "phases": [as_json(phase) for phase in phases if phase.changes],
    }


def _copy(root: Path, source: Path, target: Path) -> None:
    """The regular files of a folder of the run, or one of them; a Parquet part or a checkpoint's file is linked."""
    folder = source.is_dir()
    (target if folder else target.parent).mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()) if folder else [source]:
        where = inside(root, str(file.relative_to(root)), plain(root, 1000))
        if file.is_symlink() or where != file.resolve():
            raise UnreadableInput("is a link; a run names files of its own only.", file=plain(file, 1000))
        if file.is_dir():
            _copy(root, file, target / file.name)
            continue
        copied = target / file.name if folder else target
        if file.suffix == ".jsonl" or not _linked(file, copied):
            shutil.copyfile(file, copied)


def _linked(file: Path, target: Path) -> bool:
    try:
        os.link(file, target)
    except OSError:  # another file system, or one that has no links
        return False
    return True
