"""Makes runs that are sound, or nearly, and much larger than any that a training writes.

Standard library and this package only. Each function fills a new folder and returns it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from postmortem.checkpoint import manifest as manifests

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample_runs" / "19-spike-001"
STEPS = 2_000
"""Rows of the sample run."""


def make_checkpoints(folder: Path, n: int) -> Path:
    """A run with `n` rollback checkpoints, one per step: hard links of a real one, each with a manifest of its own,
    and a journal that names each."""
    _copy_rows(folder)
    source = next(path for path in sorted((SAMPLE / "rollback").iterdir()))
    first = manifests.read(source)
    with (folder / "journal.jsonl").open("w") as journal:
        for step in range(1, n + 1):
            name = checkpoint_path(step)
            (folder / name).mkdir(parents=True)
            for file in first.files:
                os.link(source / file, folder / name / file)
            _write_manifest(folder / name, replace(first, step=step, saved=first.saved + step))
            journal.write(_line(checkpoint_event(step)))
    (folder / "latest").symlink_to(checkpoint_path(n))
    return folder


def make_journal(folder: Path, n: int, event: Callable[[int], Mapping[str, object]] | None = None) -> Path:
    """A run without checkpoints whose journal has `n` events: `event(i)` of each i, or one of the mixed kinds."""
    _copy_rows(folder)
    with (folder / "journal.jsonl").open("w") as journal:
        journal.writelines(_line((event or mixed_event)(i)) for i in range(n))
    return folder


def checkpoint_path(step: int) -> str:
    """The name of a checkpoint in its run."""
    return f"rollback/step-{step:08d}.dcp"


def checkpoint_event(i: int) -> Mapping[str, object]:
    """The event of a checkpoint at step `i`."""
    facts = {"contents": "full", "bytes": 589664, "seconds": 0.02}
    return _event("checkpoint", i, i, role="rollback", path=checkpoint_path(i), **facts)


def resume_event(i: int) -> Mapping[str, object]:
    """The event of a resume near the middle of the run, without its moments."""
    step = 100 + i % (STEPS // 2)
    parts = {"restored": ["model"], "missing": ["moments"]}
    return _event("resume", i, step, from_step=step, attempt=0, checkpoint=checkpoint_path(step), **parts)


def rollback_event(i: int) -> Mapping[str, object]:
    """The event of a rollback near the middle of the run that skips two batches."""
    step = 100 + i % (STEPS // 2)
    facts = {"attempt": 0, "skip": [[step, step + 2]], "reason": "loss_spike_sustained"}
    return _event("rollback", i, step, from_step=step + 5, to_step=step, **facts)


def _event(name: str, i: int, step: int, **keys: object) -> Mapping[str, object]:
    return {"event": name, "step": step, "time": 1.79e9 + i, **keys}


def mixed_event(i: int) -> Mapping[str, object]:
    """Event `i` of a long run: nine of ten are a tool's own, the others are checkpoints, resumes and rollbacks."""
    makers = (checkpoint_event, resume_event, rollback_event)
    if i % 10 == 0:
        return makers[i // 10 % 3](i)
    return {"event": f"custom_{i % 7}", "step": i % STEPS, "time": 1.79e9 + i, "note": "as noted", "value": i * 0.5}


def make_csv_wide(folder: Path, n: int) -> Path:
    """metrics.csv with `n` columns and two rows."""
    names = itertools.chain(("step", "loss"), (f"c{i}" for i in range(n - 2)))
    return _file(folder, "metrics.csv", [",".join(names), ",".join("0" * n), ",".join("1" * n)])


def make_empty_lines(folder: Path, n: int, name: str) -> Path:
    """A log with three rows, and `n` empty lines between them."""
    first, rows = _small_log(name)
    return _file(folder, name, [*first, *itertools.repeat("", n), *rows])


def make_long_line(folder: Path, size: int, name: str) -> Path:
    """A log of three rows, and one line of `size` bytes between them."""
    first, rows = _small_log(name)
    folder.mkdir(parents=True)
    with (folder / name).open("w") as file:
        file.write("".join(f"{line}\n" for line in first))
        for _ in range(size >> 20):
            file.write("7" * 2**20)
        file.write("\n" + "".join(f"{line}\n" for line in rows))
    return folder


def make_jsonl_new_names(folder: Path, n: int) -> Path:
    """metrics.jsonl in which each of `n` rows names a column that no other row has."""
    rows = (json.dumps({"step": i, "loss": 1.0, f"c{i}": 1.0}) for i in range(n))
    return _file(folder, "metrics.jsonl", rows)


def make_empty_objects(folder: Path, n: int) -> Path:
    """metrics.jsonl with three rows and `n` empty objects."""
    first, rows = _small_log("metrics.jsonl")
    return _file(folder, "metrics.jsonl", itertools.chain(first, itertools.repeat("{}", n), rows))


def _small_log(name: str) -> tuple[list[str], list[str]]:
    if name.endswith(".csv"):
        return ["step,loss", "0,1.0"], ["1,1.0", "2,1.0"]
    return ['{"step":0,"loss":1.0}'], ['{"step":1,"loss":1.0}', '{"step":2,"loss":1.0}']


def _file(folder: Path, name: str, lines: Iterable[str]) -> Path:
    folder.mkdir(parents=True)
    with (folder / name).open("w") as file:
        file.writelines(f"{line}\n" for line in lines)
    return folder


def _copy_rows(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("metrics", "batches"):
        shutil.copytree(SAMPLE / name, folder / name)
    for name in ("run.json", "vocab.json"):
        shutil.copy(SAMPLE / name, folder / name)


def _write_manifest(folder: Path, manifest: manifests.CheckpointManifest) -> None:
    manifests.write(folder, manifest)


def _line(event: Mapping[str, object]) -> str:
    return json.dumps(event, separators=(",", ":")) + "\n"
