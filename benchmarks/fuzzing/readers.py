"""Every reader of a file that strangers may have written, with the sound trees that it reads.

`tests/benchmarks/test_fuzz.py` holds the list complete: each source, and each function of the package that opens a file
to read it, is reached from here or has a reason in `EXEMPT`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from postmortem import diagnosis, report
from postmortem.arithmetic import arithmetic_of
from postmortem.checkpoint import inspection, inventory, manifest, readiness
from postmortem.checkpoint.health import RunHealth
from postmortem.checkpoint.policy import Policy
from postmortem.diff import lineage, settings
from postmortem.experiment.pool import read_finished
from postmortem.frameworks._foreign_checkpoint import check_foreign_checkpoint
from postmortem.proof.stored_proofs import load_proofs
from postmortem.record.lock import attempt_of_writer, lock_path
from postmortem.replay.spec import ReplaySpec, read_spec
from postmortem.run import Run
from postmortem.run.journal import read_journal
from postmortem.run.manifest import read_manifest, read_mapping
from postmortem.run.recorded import RecordedRun
from postmortem.sources import open_run

from . import binary_logs
from .corpus import Tree, corpus


@dataclass(frozen=True)
class Reader:
    """`read` is called with the folder of a mutated tree; the trees are named in `seeds`, and the files to mutate
    match `targets`. `allowed` are exceptions that its docstring names beside those of `postmortem.errors`. `weight`:
    how often, compared with the others."""

    name: str
    seeds: str
    read: Callable[[Path], object]
    targets: str = "*"
    allowed: tuple[type[Exception], ...] = ()
    weight: float = 1.0


def _touch(run: Run) -> Run:
    """Read all that a run reads only when it is asked."""
    for name in (*run.columns, *run.other_columns):
        if run.series(name) is None:
            run.labels(name)
    run.vocab()
    return run


def _source(name: str, file: str = "", source: str | None = None) -> Callable[[Path], object]:
    return lambda folder: _touch(open_run(folder / file, source=source))


_LONGEST_MESSAGE = 2**16  # bytes; their CRCs are calculated byte by byte


def _framed(name: str, file_of: Callable[[list[bytes]], bytes]) -> Callable[[Path], object]:
    """Reads the messages in the files of a folder as one file of that name."""

    def read(folder: Path) -> object:
        messages = [path.read_bytes()[:_LONGEST_MESSAGE] for path in sorted(folder.iterdir()) if path.is_file()]
        framed = folder / "framed"
        framed.mkdir()
        (framed / name).write_bytes(file_of(messages))
        return _touch(open_run(framed / name))

    return read


def _any_log(folder: Path) -> object:
    return _touch(open_run(folder))


def _lineage(folder: Path) -> object:
    run, recorded = open_run(folder), open_run(folder)
    rewinds = lineage.rewinds(run)
    listed = (lineage.changed_settings(run), lineage.skipped_windows(run, rewinds))
    rows = RecordedRun(recorded)
    return rewinds, listed, rows.config, rows.last_step, settings.differing_settings(run, recorded)


def _diagnosis(folder: Path) -> object:
    loaded = diagnosis.load(folder / "diagnosis.json")
    return [report.render(loaded, format=name) for name in report.formats()]


def _environment(folder: Path) -> object:
    return arithmetic_of(read_manifest(folder / "run.json", folder)[0].environment, "recorded").text


def _lessons(folder: Path) -> object:
    book = folder / "lessons.md"
    report.check_lessons(book)
    return report.add_lesson(diagnosis.load(folder / "diagnosis.json"), book, run=folder)


def _locked(folder: Path) -> object:
    """The lock file of a writer that lives."""
    with suppress(OSError):
        handle = os.open(lock_path(folder, 0), os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            return attempt_of_writer(folder, 0, patience_s=0.05)
        finally:
            os.close(handle)
    return attempt_of_writer(folder, 0, patience_s=0.05)


def _result(folder: Path) -> object:
    return read_finished(ReplaySpec("run", str(folder), 0, 1))


def _checkpoint(folder: Path) -> object:
    from postmortem.checkpoint.load import load_checkpoint

    return load_checkpoint(folder)


def _retention(folder: Path) -> object:
    from postmortem.checkpoint.retention import CheckpointFolders

    folders = CheckpointFolders(folder)
    return folders.entries("rollback", "recovery", "best-k"), folders.newest()


def _recorder(folder: Path) -> object:
    from postmortem.record import Recorder

    with Recorder(folder, provenance=False, on_error="raise") as recorder:
        return recorder.log(10**6, loss=1.0)


def _lab(folder: Path) -> object:
    from postmortem.lab.program import build
    from postmortem.replay.build_program import build_program

    return build_program(build, read_mapping(folder / "config.json"))


def _health(folder: Path) -> object:
    health = RunHealth(folder)
    found = [health.of(checkpoint) for checkpoint in open_run(folder).checkpoints]
    health.keep()
    return found


def _torch_file(folder: Path) -> object:
    return inspection.inspect(folder / "checkpoint-3.pt")


def _checkpoints(folder: Path) -> object:
    inspections = [possible.inspect(deep=True) for possible in inventory.possible_checkpoints(folder)]
    return inspections, inventory.latest(folder)


_LOGS = "metrics/* batches/*"
READERS = (
    Reader("source csv", "csv tsv", lambda f: _touch(open_run(next(f.glob("metrics.*sv"), f))), weight=3),
    Reader("source jsonl", "jsonl", _source("jsonl", "metrics.jsonl"), weight=3),
    Reader("source json", "json trainer_state", lambda f: _touch(open_run(next(f.glob("*.json"), f))), weight=3),
    Reader("source parquet", "parquet", _source("parquet", "metrics.parquet"), weight=4),
    Reader("source W&B panel export", "wandb", _source("W&B", "wandb.csv")),
    Reader("source TensorBoard CSV", "tensorboard", _source("TensorBoard", "run-1-tag-loss.csv")),
    Reader("source Hugging Face", "tool_hf_state", _source("Hugging Face", "log.txt", "Hugging Face")),
    Reader("source Hugging Face folder", "tool_hf_folder", _source("Hugging Face folder", "", "Hugging Face folder")),
    Reader("source Keras history", "tool_keras", _source("Keras history", "history.json", "Keras history")),
    Reader("source fastai", "tool_fastai", _source("fastai", "history.csv", "fastai")),
    Reader("source ultralytics", "tool_ultralytics", _source("ultralytics", "results.csv", "ultralytics")),
    Reader(
        "source detectron2 or OpenMMLab",
        "tool_detection",
        _source("detectron2 or OpenMMLab", "metrics.json", "detectron2 or OpenMMLab"),
    ),
    Reader("source Trainer lines", "tool_trainer", _source("Trainer lines", "trainer_log.jsonl", "Trainer lines")),
    Reader(
        "source Lightning logs",
        "tool_lightning",
        _source("Lightning logs", "lightning_logs", "Lightning logs"),
        weight=2,
    ),
    Reader("source MLflow store", "tool_mlflow_store", _source("MLflow store", "mlruns", "MLflow store"), weight=2),
    Reader(
        "source MLflow database",
        "tool_mlflow_database",
        _source("MLflow database", "mlflow.db", "MLflow database"),
        weight=2,
    ),
    Reader("source Trackio", "tool_trackio", _source("Trackio", "demo.db", "Trackio"), weight=2),
    Reader("a gzipped log", "gzip", _source("", "metrics.csv.gz")),
    Reader("pieces of a log", "pieces", lambda f: _touch(open_run([f / "metrics.1.csv", f / "metrics.csv"]))),
    Reader("any log", "tool_* event_* wandb_* text_* gzip", _any_log, weight=2),
    Reader("source text log", "text_*", _source("text log", "train.log"), weight=4),
    Reader("source TensorBoard events", "event_file event_folders", _source("TensorBoard events"), weight=2),
    Reader("events, in sound frames", "events", _framed("x.tfevents", binary_logs.event_file), "*", (OSError,), 3),
    Reader("source W&B offline", "wandb_file wandb_folders", _source("W&B offline"), weight=2),
    Reader(
        "W&B records, in sound frames", "wandb_records", _framed("x.wandb", binary_logs.wandb_file), "*", (OSError,), 3
    ),
    Reader("source folder", "folder csv json", _source("folder"), weight=3),
    Reader("source run directory", "rows", _source("run directory"), f"{_LOGS} journal.jsonl run.json", weight=3),
    Reader("manifest, JSON", "rows", lambda f: read_manifest(f / "run.json", f), "run.json", (OSError,), 2),
    Reader("manifest, YAML", "folder", lambda f: read_manifest(f / "run.yaml", f), "run.yaml", (OSError,), 2),
    Reader("journal", "folder rows", lambda f: read_journal(f / "journal.jsonl"), "journal.jsonl", (OSError,), 2),
    Reader("vocabulary", "folder", lambda f: open_run(f).vocab(), "vocab.json"),
    Reader("lineage", "folder", _lineage, "journal.jsonl run.yaml notes.patch"),
    Reader("environment", "rows", _environment, "run.json", (OSError,)),
    Reader("diagnosis", "diagnosis", _diagnosis, weight=2),
    Reader("proofs", "proof", lambda f: load_proofs(open_run(f)), "postmortem/*", weight=2),
    Reader("replay spec", "jobs", lambda f: read_spec(f / "jobs" / "R0.json"), "jobs/R0.json"),
    Reader("replay result", "replay", _result),
    Reader("policy", "policy", lambda f: Policy.from_file(f / "policy.yaml")),
    Reader("policy, TOML", "policy_toml", lambda f: Policy.from_file(f / "policy.toml")),
    Reader("lessons", "lessons*", _lessons, "lessons.md"),
    Reader("writer's lock", "lock", _locked),
    Reader("lab config", "config", _lab, allowed=(OSError,)),
    Reader("checkpoint", "dcp", lambda f: inspection.inspect(f, deep=False), weight=3),
    Reader("checkpoint, every byte", "dcp", inspection.inspect, weight=2),
    Reader("checkpoint manifest", "dcp", manifest.read, "checkpoint.json"),
    Reader("checkpoint, loaded", "dcp", _checkpoint, weight=2),
    Reader("file of torch.save", "torch_zip torch_legacy pickle*", _torch_file, weight=2),
    Reader("checkpoints of a run", "recorded", _checkpoints, "rollback/* journal.jsonl latest", (OSError,)),
    Reader("checkpoints kept", "recorded", _retention, "rollback/* latest", (OSError,), 0.5),
    Reader("readiness", "recorded", lambda f: readiness.check_readiness(open_run(f)), "rollback/* *.json*", weight=0.5),
    Reader("folder of a framework", "huggingface", inspection.inspect, weight=2),
    Reader("looks at checkpoints", "looks", _health, "postmortem/checkpoints.json rollback/*", weight=0.5),
    Reader("foreign checkpoint", "huggingface torch_zip", check_foreign_checkpoint, "*", (OSError,), 2),
    Reader("recorder, reopened", "rows", _recorder, f"{_LOGS} *.json*", (OSError,), 0.3),
)

EXEMPT = {
    "atomic.py:append": "appends to what resume_test writes",
    "api.py:_opened": "calls open_run, as the commands do",
    "arithmetic.py:_processor_flags": "reads /proc/cpuinfo",
    "atomic.py:_remove_if_abandoned": "opens what a killed writer left, to lock it",
    "checkpoint/checkpointer.py:delete": "reads by CheckpointFolders, as the reader of kept checkpoints does",
    "checkpoint/manifest.py:digest": "reads what this save has just written",
    "checkpoint/resume.py:choose_checkpoint": "reads by CheckpointFolders",
    "checkpoint/writing.py:_write_own": "writes",
    "cli/_faults.py:*": "opens /dev/null",
    "cli/_guard.py:guarded": "opens /dev/null",
    "cli/convert.py:convert": "reads by open_run, and writes a folder of its own",
    "diff/counter.py:_same_column": "reads columns of runs that were read, as the diff does",
    "discovery.py:_may_add_parts": "reads the metadata of installed distributions",
    "experiment/*": "reads what its own replays wrote, by readers that are fuzzed",
    "lab/run_equality.py:*": "compares two runs of `make samples-check`",
    "replay/run_replay.py:_load_state": "reads by read_saved_state, as a replay from a checkpoint does",
    "report/templates.py:*": "reads the package's own templates",
    "resume_test/*": "reads what its own processes wrote",
}
"""file:function of what opens a file and is not reached by a sound one, with the reason; `*` stands for anything."""


def seeds_of(reader: Reader) -> list[Tree]:
    """The sound trees of a reader."""
    return [tree for name, tree in corpus().items() if any(fnmatch(name, seed) for seed in reader.seeds.split())]
