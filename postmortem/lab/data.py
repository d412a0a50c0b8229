"""Makes batches by absolute index, a pure function of config and index.

Each epoch reads the shards in a new order, and each shard's sentences in a new order, batch by batch. A stream replaces
the batches at its positions [first, first + batches). `data.order` maps index to position: [[0, 1]] is the identity,
and a piece [k, stride] advances `stride` positions per index from index k on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from postmortem.lab import bpe, corpus
from postmortem.program import Edit
from postmortem.record.hashing import batch_hash

IGNORED = -100
RARE_BELOW = 6
MAX_NGRAM = 13
MIN_REPEATS = 32

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabBatch:
    """`ids` and `labels` are int64[n, length], right-padded; a label that is ignored is -100."""

    index: int
    ids: Ids
    labels: Ids
    lengths: Ids  # int64[n]: tokens per sample before padding
    row: Mapping[str, Any]


@dataclass(frozen=True)
class _Sample:
    ids: tuple[int, ...]  # with begin and end marks
    question: int = 0  # leading labels that are not trained on


class Loader:
    """The training batches of a config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        data: dict[str, Any] = config["data"]
        self._seed, self._size = int(config["seed"]), int(data["batch_size"])
        self._context = int(config["model"]["context"])
        self._order: list[list[int]] = data["order"]
        self._streams: list[dict[str, Any]] = data["streams"]
        self.tokenizer, texts = _corpus(int(data["corpus"]), int(data["sentences"]), int(data["vocab"]))
        self._texts = texts
        samples = [self._sample(text) for text in texts]
        per_shard = len(samples) // int(data["shards"])
        self._shards = [samples[i : i + per_shard] for i in range(0, len(samples), per_shard)]
        self._per_epoch = sum(len(shard) // self._size for shard in self._shards)
        self.counts = Counter(token for sample in samples for token in sample.ids)
        self._rare = np.array([self.counts[token] < RARE_BELOW for token in range(len(self.tokenizer.pieces))])
        self._streams_read: dict[str, list[_Sample]] = {}
        self.tokens_per_step = round(self._size * sum(len(sample.ids) - 1 for sample in samples) / len(samples))

    def batch(self, index: int) -> LabBatch:
        """The batch at `index` (from 0)."""
        position = self._position(index)
        for stream in self._streams:
            if stream["first"] <= position < stream["first"] + stream["batches"]:
                return self._from_stream(index, stream, position - stream["first"])
        epoch, number = divmod(position, self._per_epoch)
        shard, rows = self._epoch(epoch)[number]
        samples = [self._shards[shard][row] for row in rows]
        return self._assemble(index, samples, f"shard-{shard:02d}", rows)

    def held_out(self, count: int) -> LabBatch:
        """`count` sentences of the same grammar that are not in the corpus, as one batch."""
        texts = corpus.held_out_sentences(count, self._texts)
        return self._assemble(-1, [self._sample(text) for text in texts], "held-out", list(range(count)))

    def edited(self, batch: LabBatch, edit: Edit) -> LabBatch:
        """`batch` after the edit; the facts in its row are counted again."""
        rows = [row for row in range(len(batch.ids)) if row not in edit.without_rows]
        longest = int(batch.lengths[rows].max(initial=1))
        ids, labels = batch.ids[rows, :longest].copy(), batch.labels[rows, :longest].copy()
        lengths = batch.lengths[rows]
        if edit.masked_tokens:
            tokens = list(edit.masked_tokens)
            labels[np.isin(labels, tokens) | np.isin(ids, tokens)] = IGNORED
        if edit.unmask and not (labels != IGNORED).any():
            for row, length in enumerate(lengths.tolist()):
                labels[row, :length] = batch.row["token_ids"][rows[row]][1 : length + 1]
        samples = {key: [batch.row[key][row] for row in rows] for key in ("sample_ids", "token_ids")}
        index = batch.index if edit.index is None else edit.index
        row = {**batch.row, **samples, **self._facts(ids, labels, lengths), "batch_index": index}
        return LabBatch(index, ids, labels, lengths, row)

    def _facts(self, ids: Ids, labels: Ids, lengths: Ids) -> dict[str, Any]:
        """The facts that are counted in a batch."""
        targets = labels[labels != IGNORED]
        return {
            "batch_hash": batch_hash(ids),
            "tokens": int(lengths.sum()),
            "valid_labels": int(targets.size),
            "rare_tokens": int(self._rare[targets].sum()),
            "repeated_ngram_tokens": sum(
                repeated_tokens(ids[number, :length]) for number, length in enumerate(lengths.tolist())
            ),
        }

    def _position(self, index: int) -> int:
        position = 0
        for number, (first, stride) in enumerate(self._order):
            last = self._order[number + 1][0] if number + 1 < len(self._order) else index
            position += stride * max(0, min(index, last) - first)
        return position

    def _epoch(self, epoch: int) -> list[tuple[int, list[int]]]:
        rng = Random(f"epoch:{self._seed}:{epoch}")
        shards = rng.sample(range(len(self._shards)), len(self._shards))
        out: list[tuple[int, list[int]]] = []
        for shard in shards:
            rows = rng.sample(range(len(self._shards[shard])), len(self._shards[shard]))
            out += [(shard, rows[i : i + self._size]) for i in range(0, len(rows) - self._size + 1, self._size)]
        return out

    def _from_stream(self, index: int, stream: dict[str, Any], number: int) -> LabBatch:
        rows = list(range(stream["offset"] + number * self._size, stream["offset"] + (number + 1) * self._size))
        name = str(stream["name"])
        if name not in self._streams_read:
            self._streams_read[name] = self._stream_samples(stream)
        samples = self._streams_read[name][number * self._size : (number + 1) * self._size]
        return self._assemble(index, samples, name, rows)

    def _stream_samples(self, stream: dict[str, Any]) -> list[_Sample]:
        count = stream["batches"] * self._size
        if stream["recipe"] == "c":
            rng = np.random.default_rng(int(stream["seed"]))
            shape = (count, self._context // 2)
            return [_Sample(tuple(row)) for row in rng.integers(3, len(self.tokenizer.pieces), shape).tolist()]
        texts = corpus.stream_sentences(stream["recipe"], count, int(stream["seed"]), int(stream["share"]), self._texts)
        return [self._sample(text, question=self._context if stream["recipe"] == "e" else 0) for text in texts]

    def _sample(self, text: str, question: int = 0) -> _Sample:
        ids = (bpe.BOS, *self.tokenizer.encode(text), bpe.EOS)
        return _Sample(ids[: self._context + 1], question)

    def _assemble(self, index: int, samples: list[_Sample], source: str, rows: list[int]) -> LabBatch:
        longest = max(len(sample.ids) for sample in samples) - 1
        ids = np.full((len(samples), longest), bpe.PAD, dtype=np.int64)
        labels = np.full((len(samples), longest), IGNORED, dtype=np.int64)
        for number, sample in enumerate(samples):
            length = len(sample.ids) - 1
            ids[number, :length] = sample.ids[:-1]
            labels[number, sample.question : length] = sample.ids[1 + sample.question :]
        lengths = np.array([len(sample.ids) - 1 for sample in samples], dtype=np.int64)
        facts = self._facts(ids, labels, lengths)
        row = {
            "batch_index": index,
            "batch_hash": facts.pop("batch_hash"),
            "source": source,
            "sample_ids": [f"{source}:{number}" for number in rows],
            **facts,
            "token_ids": [list(sample.ids) for sample in samples],
        }
        return LabBatch(index, ids, labels, lengths, row)


def repeated_tokens(ids: Ids) -> int:
    """How many tokens of int64[length] are in a span of 1 to 13 tokens that is repeated at least 32 times."""
    covered = np.zeros(ids.size, dtype=bool)
    for period in range(1, min(MAX_NGRAM, ids.size // MIN_REPEATS) + 1):
        same = ids[period:] == ids[:-period]
        run = 0
        for i, equal in enumerate([*same.tolist(), False]):
            if equal:
                run += 1
                continue
            if run + period >= MIN_REPEATS * period:
                covered[i - run : i + period] = True
            run = 0
    return int(covered.sum())


@lru_cache(maxsize=4)
def _corpus(seed: int, count: int, vocab: int) -> tuple[bpe.Tokenizer, list[str]]:
    texts = corpus.sentences(count, seed)
    return bpe.train([*texts, *corpus.GLOSSARY], vocab), texts
