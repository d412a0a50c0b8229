"""A training in which a NaN waits: batch SPOILS writes one into a row of the table that no batch reads until READ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from postmortem.checkpoint import Checkpointer, Policy
from postmortem.program import Batch, Measured
from postmortem.record import Recorder
from postmortem.training_loop import drive
from tests.replay.rogue_program import VOCAB, Bigrams, Text

SPOILS, READ = 106, 136  # batches
EVERY, STEPS = 10, 160  # steps between checkpoints, and of the run
UNREAD, HARMFUL = VOCAB - 1, VOCAB - 2  # tokens


class Latent(Bigrams):
    """Bigrams whose update breaks on the label HARMFUL: it writes a NaN into the row of UNREAD.

    `read_until` in its config is the batch from which on no batch reads that row any more.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._read_until = config.get("read_until", 2**62)

    def batch(self, index: int) -> Text:
        text = super().batch(index)
        ids, labels = text.ids.clone(), text.labels.clone()
        if READ <= index < self._read_until:
            ids[0, 0] = UNREAD
        if index == SPOILS:
            labels[2, 5] = HARMFUL
        return replace(text, ids=ids, labels=labels)

    def step(self, batch: Batch) -> Measured:
        assert isinstance(batch, Text)
        measured = super().step(batch)
        if bool((batch.labels == HARMFUL).any()):
            with torch.no_grad():
                self._table.weight[UNREAD, 0] = float("nan")
        return measured


def build(config: Mapping[str, Any]) -> Latent:
    """A fresh training."""
    return Latent(config)


def record(out: Path, config: Mapping[str, Any]) -> Path:
    """Train and record a run; a full checkpoint each EVERY steps."""
    torch.set_num_threads(1)
    program = build(config)
    manifest = {"program": "tests.replay.latent_program:build"}
    policy = Policy(rollback_every=EVERY, rollback_keep=100, recovery_every=0, best_k=0)
    with (
        Recorder(out, config=config, manifest=manifest, on_error="raise", provenance=False) as recorder,
        Checkpointer(recorder, program, policy, asynchronous=False) as saves,
    ):
        drive(program, STEPS, rows=recorder, checkpointer=saves)
    return out
