"""The lab's corpus, tokenizer and loader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from postmortem.lab import bpe, corpus
from postmortem.lab.config import default_config, interpolate, learning_rate
from postmortem.lab.data import IGNORED, Loader, repeated_tokens


def config(**data: Any) -> dict[str, Any]:
    made = default_config(3, 2000)
    made["data"] |= data
    return made


def stream(recipe: str, first: int = 10, batches: int = 1, share: int = 8) -> dict[str, Any]:
    return {
        "name": "shard-20",
        "first": first,
        "batches": batches,
        "recipe": recipe,
        "share": share,
        "offset": 40,
        "seed": 2,
    }


def test_written_is_split_before_a_piece_that_five_sentences_hold() -> None:
    sentences = corpus.sentences(240, 1)
    assert len(set(sentences)) == 240
    tokenizer = bpe.train([*sentences, *corpus.GLOSSARY], 240)
    pieces = [tokenizer.pieces[token] for token in tokenizer.encode("written")]
    assert pieces == ["▁wri", "tten"]
    rare = tokenizer.pieces.index("tten")
    assert sum(tokenizer.encode(sentence).count(rare) for sentence in sentences) == 5


def test_pieces_spell_the_sentence() -> None:
    tokenizer = bpe.train(corpus.sentences(40, 1), 120)
    text = "xavier quizzed the doctor ."
    spelled = "".join(tokenizer.pieces[token] for token in tokenizer.encode(text))
    assert spelled.replace("▁", " ").strip() == text.replace(" .", ".")


def test_a_batch_depends_on_config_and_index_alone() -> None:
    forward = [Loader(config()).batch(index).row["batch_hash"] for index in (0, 31, 400)]
    loader = Loader(config())
    backward = [loader.batch(index).row["batch_hash"] for index in (400, 31, 0)]
    assert forward == backward[::-1]


def test_an_epoch_shows_every_sentence_once() -> None:
    loader = Loader(config())
    seen = [name for index in range(30) for name in loader.batch(index).row["sample_ids"]]
    assert len(seen) == len(set(seen)) == 240


def test_an_order_with_stride_zero_hands_out_one_batch_again() -> None:
    plain, stuck = Loader(config()), Loader(config(order=[[0, 1], [50, 0], [60, 1]]))
    hashes = [stuck.batch(index).row["batch_hash"] for index in range(48, 64)]
    assert hashes[:2] == [plain.batch(index).row["batch_hash"] for index in (48, 49)]
    assert len(set(hashes[2:13])) == 1
    assert hashes[13:] == [plain.batch(index).row["batch_hash"] for index in (51, 52, 53)]


def test_recipes_do_what_they_say() -> None:
    rare = Loader(config(streams=[stream("b", share=5)])).batch(10)
    assert rare.row["rare_tokens"] > 15
    assert rare.row["source"] == "shard-20"
    random = Loader(config(streams=[stream("c", batches=3)])).batch(12)
    assert random.ids.shape == (8, 15)
    unlabeled = Loader(config(streams=[stream("e")])).batch(10)
    assert unlabeled.row["valid_labels"] == 0
    assert (unlabeled.labels == IGNORED).all()
    empty = Loader(config(streams=[stream("d", share=1)])).batch(10)
    assert min(empty.lengths.tolist()) == 1
    assert empty.row["valid_labels"] > 50


def test_labels_are_the_ids_one_position_on() -> None:
    batch = Loader(config()).batch(7)
    for sample, ids, labels in zip(batch.row["token_ids"], batch.ids, batch.labels, strict=True):
        length = len(sample) - 1
        assert ids[:length].tolist() == sample[:-1]
        assert labels[:length].tolist() == sample[1:]
        assert (labels[length:] == IGNORED).all()


def test_repeated_tokens_counts_long_periodic_spans_only() -> None:
    assert repeated_tokens(np.arange(200)) == 0
    assert repeated_tokens(np.full(31, 5)) == 0
    assert repeated_tokens(np.full(32, 5)) == 32
    assert repeated_tokens(np.array([1, 2, 3, *([7, 8] * 40), 4, 5])) == 80


def test_schedule_warms_up_and_follows_its_pieces() -> None:
    schedule = default_config(0, 2000)["schedule"]
    assert learning_rate(schedule, 0) == pytest.approx(3e-6)
    assert learning_rate(schedule, 100) == pytest.approx(3e-4)
    assert learning_rate(schedule, 1999) == pytest.approx(3e-5, rel=1e-3)
    schedule["pieces"] = [[0, 1.0], [700, 10.0]]
    assert learning_rate(schedule, 700) / learning_rate(schedule, 699) == pytest.approx(10, rel=0.01)


def test_knots_are_joined_geometrically() -> None:
    knots = [[0, 1.0], [10, 1.0], [20, 100.0], [30, 1.0]]
    assert [interpolate(knots, step) for step in (5, 15, 20, 25, 99)] == pytest.approx([1, 10, 100, 10, 1])
