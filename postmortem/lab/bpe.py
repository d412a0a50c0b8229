"""Byte-pair encoding over words, trained on the lab's corpus: pieces merge inside a word, the most frequent first.

A word has its leading space as "▁" in its first piece, except the full stop.
Source: Sennrich, Haddow, Birch 2016 (arXiv 1508.07909), algorithm 1.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

PAD, BOS, EOS = 0, 1, 2
_BASE: tuple[str, ...] = ("<pad>", "<bos>", "<eos>", ".", "▁", *string.ascii_lowercase)


class Tokenizer:
    """Pieces and merges; `encode` caches its results by word."""

    def __init__(self, pieces: list[str], merges: list[tuple[str, str]]) -> None:
        self.pieces = tuple(pieces)
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._words: dict[str, list[int]] = {}

    def encode(self, sentence: str) -> list[int]:
        """Token ids of a sentence in lower case, without begin and end marks."""
        ids: list[int] = []
        for word in sentence.split():
            if word not in self._words:
                self._words[word] = [self._ids[piece] for piece in self._split(word)]
            ids += self._words[word]
        return ids

    def _split(self, word: str) -> list[str]:
        pieces = _letters(word)
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            pieces = _merge(pieces, best)
        return pieces


def train(sentences: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of at most `size` pieces; ties go to the pair that comes first in the alphabet."""
    counts = Counter(word for sentence in sentences for word in sentence.split())
    words = {word: _letters(word) for word in counts}
    pieces, merges = list(_BASE), list[tuple[str, str]]()
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces.append("".join(best))
        words = {word: _merge(parts, best) for word, parts in words.items()}
    return Tokenizer(pieces, merges)


def _letters(word: str) -> list[str]:
    return [word] if word == "." else ["▁", *word]


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == pair:
            out.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out
