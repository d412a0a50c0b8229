"""A bigram model so small that an experiment on it takes a second. Some of its batches hold tokens that no other does.

Its config: `rogue` lists those batches, `rows` which of their eight rows they spoil, `fails_at` a step that raises,
`drifts_at` one from which on no two trainings are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from postmortem.checkpoint import Checkpointer, Policy
from postmortem.program import Batch, Edit, Measured, Program
from postmortem.record import Recorder
from postmortem.training_loop import drive
from tests.replay.counted import Counted

ROWS, LENGTH, COMMON, VOCAB = 8, 64, 20, 30
IGNORED = -100
STEPS, AT = 150, 110  # of a run, and its rogue batch


@dataclass(frozen=True)
class Text:
    """A batch: ids and labels, int64[rows, LENGTH]."""

    index: int
    ids: Tensor
    labels: Tensor


class Bigrams(Counted):
    """A table of logits float32[VOCAB, VOCAB], by AdamW."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._rogue, self._fails_at = frozenset(config.get("rogue", ())), config.get("fails_at")
        self._drifts_at = config.get("drifts_at", 2**62)
        self._rows = list(config.get("rows", range(ROWS)))
        self._table = nn.Embedding(VOCAB, VOCAB)
        nn.init.zeros_(self._table.weight)
        super().__init__(self._table, lr=0.05, weight_decay=0.0)

    def batch(self, index: int) -> Text:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(COMMON, (ROWS, LENGTH), generator=generator)
        usual = torch.rand((ROWS, LENGTH), generator=generator) < 0.9
        labels = torch.where(usual, (ids * 7 + 3) % COMMON, torch.randint(COMMON, ids.shape, generator=generator))
        if index in self._rogue:
            labels[self._rows] = torch.randint(COMMON, VOCAB, (len(self._rows), LENGTH), generator=generator)
        return Text(index, ids, labels)

    def edited(self, batch: Batch, edit: Edit) -> Text:
        assert isinstance(batch, Text)
        kept = [row for row in range(len(batch.ids)) if row not in edit.without_rows]
        ids, labels = batch.ids[kept].clone(), batch.labels[kept].clone()
        for token in edit.masked_tokens:
            labels[(labels == token) | (ids == token)] = IGNORED
        return replace(batch, index=batch.index if edit.index is None else edit.index, ids=ids, labels=labels)

    def labels(self, batch: Batch) -> Sequence[Sequence[int]]:
        assert isinstance(batch, Text)
        return [[label for label in row if label != IGNORED] for row in batch.labels.tolist()]

    def step(self, batch: Batch) -> Measured:
        assert isinstance(batch, Text)
        if self._done == self._fails_at:
            raise RuntimeError("the shard is not there")
        kept = batch.labels != IGNORED
        each = nn.functional.cross_entropy(self._table(batch.ids[kept]), batch.labels[kept], reduction="none")
        loss = each.sum() / max(1, each.numel())
        if self._done >= self._drifts_at:
            loss = loss * (1 + (torch.seed() % 1000) / 1e6)
        self._optimizer.zero_grad()
        loss.backward()
        assert self._table.weight.grad is not None
        norm = float(self._table.weight.grad.norm())
        self._optimizer.step()
        self._count(batch.index)
        sorted_losses = each.detach().sort().values
        metrics = {
            "loss": float(loss.detach()),
            "lr": 0.05,
            "grad_norm": norm,
            "token_loss_p50": float(sorted_losses[each.numel() // 2]) if each.numel() else None,
            "token_loss_max": float(sorted_losses[-1]) if each.numel() else None,
            "param_hash": _hash(self._table.weight.detach()),
        }
        rare = int((batch.labels >= COMMON).sum())
        facts = {"batch_hash": _hash(batch.ids, batch.labels), "rare_tokens": rare, "tokens": batch.ids.numel()}
        return Measured(metrics, facts | {"sample_ids": [f"row-{row}" for row in range(len(batch.ids))]})

    def damage(self) -> None:
        """Change one parameter, as a flipped bit would."""
        with torch.no_grad():
            self._table.weight[3, 7] = 60.0


def _hash(*tensors: Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(b"".join(one.contiguous().numpy().tobytes() for one in tensors))


def build(config: Mapping[str, Any]) -> Bigrams:
    """A fresh training."""
    return Bigrams(config)


def hit(step: int, program: Program) -> None:
    """What no replay does again: at step AT one parameter changes by itself."""
    if step == AT:
        assert isinstance(program, Bigrams)
        program.damage()


def misreport(step: int, row: dict[str, Any]) -> dict[str, Any]:
    """A log that is wrong at step AT."""
    return {**row, "loss": 9.0} if step == AT else row


def record(out: Path, config: Mapping[str, Any], **from_outside: Any) -> Path:
    """Train and record a run; a checkpoint each 50 steps. `from_outside` goes to `drive`."""
    torch.set_num_threads(1)
    program = build(config)
    manifest = {"program": "tests.replay.rogue_program:build"}
    policy = Policy(rollback_every=50, rollback_keep=100, recovery_every=0, best_k=0)
    with (
        Recorder(out, config=config, manifest=manifest, on_error="raise", provenance=False) as recorder,
        Checkpointer(recorder, program, policy, asynchronous=False) as saves,
    ):
        drive(program, STEPS, rows=recorder, checkpointer=saves, **from_outside)
    return out
