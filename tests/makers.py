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
import pytest

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


def write_checkpoints(root: Path, values: Mapping[int, float]) -> None:
    """torch.save files of a model and its optimizer under rollback/; `values` maps steps to one of the weights."""
    torch = pytest.importorskip("torch")
    (root / "rollback").mkdir(exist_ok=True)
    for step, value in values.items():
        weight = torch.tensor([0.5, value])
        state = {"model": {"w": weight}, "optimizer": {"state": {0: {"exp_avg": weight * 0}}, "param_groups": []}}
        torch.save(state, root / "rollback" / f"step-{step:08d}.pt")


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


VOCAB = ("he", "has", "wri", "tten", *(f"piece{i}" for i in range(4, 60)))
WRI, TTEN, RARE = 2, 3, (3, 57, 58, 59)  # ids of the tokens that occur fewer than ten times in the corpus
SENTENCES, SENTENCE, BATCH = 240, 16, 8  # of the corpus; tokens of a sentence; sentences of a batch
SPIKE = 312


def corpus() -> np.ndarray:
    """The corpus of the worked example, int64[240, 16]: five sentences contain "tten", and each of three other rare
    pieces is in eight."""
    rng = np.random.default_rng(0)
    ids = rng.choice([i for i in range(len(VOCAB)) if i not in RARE], (SENTENCES, SENTENCE))
    ids[:5, :2] = WRI, TTEN
    for column, token in enumerate(RARE[1:], 4):
        ids[rng.choice(np.arange(5, SENTENCES), 8, replace=False), column] = token
    return ids


def sentence_order(ids: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """The sentences in the batch of each step, int64[steps, 8]: shuffled anew in each epoch of 30 steps.

    In the batch of step 312, three sentences with "tten" meet, and none with another rare piece; elsewhere no two do.
    """
    rng, order = np.random.default_rng(1), np.empty((0, BATCH), np.int64)
    tten, rare = np.flatnonzero((ids == TTEN).any(1)), np.isin(ids, RARE).any(1)
    while len(order) < steps:
        epoch = rng.permutation(SENTENCES)
        if np.isin(epoch, tten).reshape(-1, BATCH).sum(1).max() > 1:
            continue
        first = BATCH * (SPIKE - len(order))
        if 0 <= first < SENTENCES:
            for place, row in enumerate([*tten[:3], *np.flatnonzero(~rare)[:5]], first):
                other = int(np.flatnonzero(epoch == row)[0])
                epoch[[place, other]] = epoch[[other, place]]
        order = np.concatenate([order, epoch.reshape(-1, BATCH)])
    return order[:steps]


def worked_example(root: Path) -> Path:
    """The run of the template's worked example, with its figures; what it does not say is as such a trainer logs it.

    The loss is 2.31 before; at step 312 the gradient norm is 47.2 (usually 0.6, clipped at 1.0), the embedding's
    activation is 3.2 times its usual one, and the loss jumps; it peaks with 5.84 at 313, and has settled at 3.40 by
    360. Three sentences of the batch contain "tten", which is in five of the 240 of the corpus, and are its worst
    tokens with about 12 nats; a batch usually has none or one of the rare tokens. The rate is 2.94e-4 at step 312, on a
    smooth cosine (not on that of the text, which has 2.909e-4 there).
    """
    columns, batches = healthy(), healthy_batches()
    t = np.arange(STEPS)
    columns["loss"] = np.full(STEPS, 2.31)
    columns["loss"][:60] += 3.0 * np.exp(-t[:60] / 10)
    fall = (t > SPIKE) & (t < 360)
    columns["loss"][SPIKE] = 4.1
    columns["loss"][fall] = 3.40 + (5.84 - 3.40) * (360 - t[fall]) / (360 - 313)
    columns["loss"][360:] = 3.40
    columns["grad_norm"] = np.full(STEPS, 0.6) + noise(0.001, seed=2)
    columns["grad_norm"][SPIKE] = 47.2
    columns["clip_threshold"] = np.ones(STEPS)
    cosine = 0.5 * (1 + np.cos(np.clip(t - 100, 0, None) / (SPIKE - 100) * math.acos(0.96)))
    columns["lr"] = 3e-4 * np.minimum((t + 1) / 100, cosine)
    columns["act_rms/embedding"][SPIKE] = 3.2
    for name, factor in (("token_loss_p50", 0.9), ("token_loss_p99", 2.0), ("token_loss_max", 2.6)):
        columns[name][SPIKE + 1 :] += factor * (columns["loss"][SPIKE + 1 :] - 2.31)
    columns["token_loss_p99"][SPIKE], columns["token_loss_max"][SPIKE] = 11.6, 12.0
    ids = corpus()
    order = sentence_order(ids)
    rng = np.random.default_rng(2)
    cells = np.array([rng.choice(BATCH * SENTENCE, 8, replace=False) for _ in t])
    cells[SPIKE, :3] = np.flatnonzero(ids[order[SPIKE]].ravel() == TTEN)
    losses = 2.31 * np.linspace(2.6, 2.0, 8) + np.zeros((STEPS, 1))
    losses[SPIKE, :3] = (12.0, 11.9, 11.6)
    batches |= {
        "batch_hash": [f"{hash(tuple(rows)) & (2**128 - 1):032x}" for rows in order.tolist()],
        "rare_tokens": np.isin(ids[order], RARE).sum((1, 2)).tolist(),
        "token_ids": ids[order].tolist(),
        "sample_ids": [[f"s{row}" for row in rows] for rows in order.tolist()],
        "worst_token_ids": [ids[rows].ravel()[at].tolist() for rows, at in zip(order, cells, strict=True)],
        "worst_token_losses": losses.tolist(),
        "worst_token_rows": (cells // SENTENCE).tolist(),
        "worst_token_cols": (cells % SENTENCE).tolist(),
    }
    return write_run(root, columns, batches=batches, vocab=VOCAB)


def skip_on_nan(root: Path, *, dtype: str | None = None) -> Path:
    """A trainer without a loss scaler that skips each update whose loss is NaN: three times four steps of twelve.

    It computes no gradient in these steps, and the parameters stay as they are.
    """
    columns = healthy()
    t = np.arange(STEPS)
    nan = (t >= 300) & (t < 330) & (t % 10 < 4)
    for name in ("loss", "token_loss_p50", "token_loss_p99", "token_loss_max"):
        columns[name][nan] = np.nan
    for name in ("grad_norm", "update_rms"):
        columns[name] = columns[name].astype(object)
        columns[name][nan] = None
    columns["skipped"] = nan.astype(float)
    return write_run(root, columns, batches=healthy_batches(), manifest={"dtype": dtype})
