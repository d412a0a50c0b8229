"""The fault bench: train lab runs with a fault each on seeds the weights never saw, draft them, and count.

Resumable: a row per (fault, seed) is kept in benchmarks/results/lab_faults.parquet and made again only where the code
that trains or diagnoses has changed since (`code` is a hash of it).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from _measure import POSTMORTEM, ROOT, machine, options, publish
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from postmortem.atomic import write_bytes

RESULTS = ROOT / "benchmarks" / "results" / "lab_faults.parquet"
FIRST_SEED = 1_000
SURE = 0.8  # a probability that people see as "strong"
CODE = ("case.py", "detectors", "diagnosis.py", "hypotheses", "lab", "panels", "pipeline.py", "program.py", "run")
SCHEMA = pa.schema(
    [
        ("fault", pa.string()),
        ("seed", pa.int64()),
        ("code", pa.string()),
        ("train_cpu_s", pa.float64()),
        ("draft_cpu_s", pa.float64()),
        ("verdict", pa.string()),
        ("true_cause", pa.string()),
        ("true_step", pa.int64()),
        ("top_cause", pa.string()),
        ("top_probability", pa.float64()),
        ("rank", pa.int64()),  # of the true cause, from 1; null where it is not listed
        ("onset_error", pa.int64()),  # steps, found − true; null where no incident was found
        ("outcome", pa.string()),
        ("probabilities", pa.string()),  # JSON object, cause → probability
    ]
)


def code_hash() -> str:
    """First 12 hex digits of a SHA-256 over the source that decides a row."""
    digest = hashlib.sha256()
    for name in CODE:
        path = ROOT / "postmortem" / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def load() -> list[dict[str, object]]:
    """The rows kept so far."""
    return pq.read_table(RESULTS).to_pylist() if RESULTS.exists() else []


def save(rows: list[dict[str, object]]) -> None:
    """All rows, replacing the file atomically, in an order that keeps the diff of two benches small."""
    RESULTS.parent.mkdir(exist_ok=True)
    buffer = pa.BufferOutputStream()
    ordered = sorted(rows, key=lambda row: (str(row["fault"]), row["seed"]))
    pq.write_table(pa.Table.from_pylist(ordered, schema=SCHEMA), buffer, compression="zstd")
    write_bytes(RESULTS, buffer.getvalue().to_pybytes())
