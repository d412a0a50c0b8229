"""Run directories for tests, written column by column: rows are steps 0, 1, 2, …, and the test gives the values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STEPS = 500


def write_run(
    root: Path,
    columns: Mapping[str, Any],
    *,
    batches: Mapping[str, Sequence[Any]] | None = None,
    manifest: Mapping[str, Any] | None = None,
    journal: Sequence[Mapping[str, Any]] = (),
    vocab: Sequence[str] | None = None,
    steps: Sequence[int] | np.ndarray | None = None,
    attempt: Sequence[int] | np.ndarray | None = None,
) -> Path:
    """A run directory of Parquet parts. NaN is a non-finite value, None a row that did not log the column."""
    root.mkdir(parents=True, exist_ok=True)
    n = len(next(iter(columns.values())))
    step = np.arange(n) if steps is None else np.asarray(steps)
    keys = {
        "attempt": np.zeros(n, int) if attempt is None else np.asarray(attempt),
        "step": step,
        "rank": np.zeros(n, int),
    }
    for name, table in (("metrics", columns), ("batches", batches)):
        if table:
            (root / name).mkdir(exist_ok=True)
            arrays = {k: pa.array(v) for k, v in (keys | dict(table)).items()}
            pq.write_table(pa.table(arrays), root / name / "part-000000.parquet")
    facts = {"format_version": 1, "id": root.name, "seed": 42, "dtype": "fp32", **(manifest or {})}
    if vocab is not None:
        (root / "vocab.json").write_text(json.dumps({"tokens": list(vocab)}))
        facts["vocab"] = "vocab.json"
    (root / "run.json").write_text(json.dumps(facts))
    start = {"event": "run_start", "step": 0, "time": 1_780_000_000.0}
    (root / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in (start, *journal)))
    return root


def noise(scale: float, n: int = STEPS, seed: int = 0) -> np.ndarray:
    """float64[n] of Gaussian noise."""
    return scale * np.random.default_rng(seed).standard_normal(n)


def healthy(n: int = STEPS) -> dict[str, np.ndarray]:
    """The main columns of every panel for a run in which nothing goes wrong: float64[n] each."""
    t = np.arange(n)
    cosine = 3e-4 * 0.5 * (1 + np.cos(math.pi * np.clip(t - 100, 0, 1900) / 1900))
    level = 2.31 + 3.0 * np.exp(-t / 40)
    return {
        "loss": level + noise(0.02, n, 1),
        "lr": np.minimum(3e-4 * (t + 1) / 100, cosine),
        "grad_norm": 0.6 * np.exp(noise(0.08, n, 2)),
        "token_loss_p50": 0.9 * level + noise(0.05, n, 3),
        "token_loss_p99": 2.0 * level + noise(0.1, n, 4),
        "token_loss_max": 2.6 * level + noise(0.2, n, 5),
        "act_rms/embedding": 1.0 + noise(0.02, n, 6),
        "act_rms/layer0": 1.2 + noise(0.02, n, 7),
        "param_norm": 20 + 1e-3 * t + noise(1e-4, n, 8),
        "update_rms": 0.3 * np.exp(noise(0.03, n, 9)),
        "adam_m_norm": 0.5 * np.exp(noise(0.02, n, 10)),
        "adam_v_norm": 0.05 + 1e-5 * t,
        "optimizer_step": t + 1.0,
    }


def healthy_batches(n: int = STEPS) -> dict[str, list[Any]]:
    """The data panel of the same run: unique hashes, two alternating sources, about two rare tokens per batch."""
    rare = np.random.default_rng(11).poisson(2, n)
    return {
        "batch_index": list(range(n)),
        "batch_hash": [f"{i:032x}" for i in range(n)],
        "source": [f"shard-{i % 2}" for i in range(n)],
        "tokens": [128] * n,
        "valid_labels": [120] * n,
        "rare_tokens": [int(r) for r in rare],
    }


def worked_example(root: Path) -> Path:
    """A run with the figures of the worked example: what §1 of its report shows, and the panels that §3 reads.

    The loss is 2.31 before; at step 312 the gradient norm is 47.2 (baseline 0.6) and the loss jumps; it peaks with 5.84
    at 313, and has settled at 3.40 by 360.
    """
    columns, batches = healthy(), healthy_batches()
    t = np.arange(STEPS)
    columns["loss"] = np.full(STEPS, 2.31)
    columns["loss"][:60] += 3.0 * np.exp(-t[:60] / 10)
    fall = (t >= 313) & (t < 360)
    columns["loss"][312] = 4.1
    columns["loss"][fall] = 3.40 + (5.84 - 3.40) * (360 - t[fall]) / (360 - 313)
    columns["loss"][360:] = 3.40
    columns["grad_norm"] = np.full(STEPS, 0.6) + noise(0.001, seed=2)
    columns["grad_norm"][312] = 47.2
    columns["lr"][312] = 2.94e-4
    columns["lr"][311], columns["lr"][313] = 2.9405e-4, 2.9395e-4
    columns["act_rms/embedding"][312] = 3.2
    columns["token_loss_p99"][312], columns["token_loss_max"][312] = 9.0, 12.0
    batches["rare_tokens"][312] = 12
    ids: list[Any] = [None] * STEPS
    ids[312] = [3] * 6 + [2] * 2
    batches |= {
        "worst_token_ids": ids,
        "worst_token_losses": [None if i is None else [12.0] * 8 for i in ids],
        "worst_token_rows": [None if i is None else [0, 0, 1, 1, 2, 2, 0, 1] for i in ids],
        "worst_token_cols": [None if i is None else [1, 3, 1, 3, 1, 3, 2, 2] for i in ids],
        "token_ids": [None if i is None else [[0, 3, 2, 3]] * 8 for i in ids],
        "sample_ids": [None if i is None else [f"s{k}" for k in range(8)] for i in ids],
    }
    return write_run(root, columns, batches=batches, vocab=["he", "has", "wri", "tten"])
