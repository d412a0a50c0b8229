"""Suspect samples as text: pieces by the vocabulary, or else what a decode hook wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import healthy, healthy_batches, write_run

ONSET = 300


def _samples(root: Path, *, text: bool = True, vocab: list[str] | None = None) -> list[str]:
    columns, batches = healthy(), healthy_batches()
    n = len(columns["loss"])
    columns["loss"][ONSET : ONSET + 6] += 5.0
    told: list[Any] = [None] * n
    told[ONSET] = ["a b", "c\x1b[31m d", "e" * 1_000]
    ids: list[Any] = [None] * n
    ids[ONSET] = [[0, 1], [1, 1], [0, 0]]
    extra = {**batches, "sample_text": told, "token_ids": ids}
    run = open_run(write_run(root, columns, batches=extra, vocab=vocab))
    incident = diagnose(run, text=text).incidents[0]
    assert incident.onset_step == ONSET
    return ["".join(token.text for token in sample.tokens) for sample in incident.samples]


def test_the_text_of_a_decode_hook_stands_in_for_a_vocabulary(tmp_path: Path) -> None:
    first, second, third = _samples(tmp_path / "run")
    assert first == "a b" and second == "c\ufffd[31m d" and len(third) == 300


@pytest.mark.parametrize("text", [True, False])
def test_a_vocabulary_goes_first_and_no_text_means_none(tmp_path: Path, text: bool) -> None:
    found = _samples(tmp_path / "run", text=text, vocab=["x", "y"])
    assert found == (["xy", "yy", "xx"] if text else [])
