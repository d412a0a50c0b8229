"""Measures how rare the tokens of the suspect batch are: by their count, and by how many of the samples with one token
this batch holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from postmortem.case import Case, Observation
from postmortem.panels._measuring import departure_figures, departure_text, finite_departure
from postmortem.run import LabelSeries
from postmortem.series import Steps
from postmortem.text import number

# Sigmas of a count: at most usual, raised, beyond doubt. Between the first two it says nothing.
USUAL_SIGMAS, RAISED_SIGMAS, SURE_SIGMAS = 1.0, 2.5, 4.0
FEWEST_BATCHES = 20  # with fewer, the batches that were logged do not show what the corpus holds
MOST_TOKENS = 2_000_000  # nearest the onset; more rows only take longer
OTHERS_SHARE = 0.05  # of the other batches that concentrate a token as much: with more, the corpus is just like that
CHANCE, SURE_CHANCE = 0.1, 1e-3  # expected number of such tokens in a batch drawn at random: from here on, beyond doubt


def count_observation(case: Case, column: str, slug: str) -> Observation | None:
    """Whether a column that counts tokens is raised around the onset: `slug`, `slug`_normal, or between the two
    `slug`_unclear; None where it has no baseline."""
    d = finite_departure(case, column, (case.onset - case.row_step, case.onset + 2 * case.row_step), sign=1)
    past = case.baseline(column)
    if d is None or past is None:
        return None
    # The square root makes Poisson noise even: its sigma is 1/2 at any level. Bursty tokens have more.
    roots = np.sqrt(np.maximum(past.value, 0.0))
    sigmas = (max(d.value, 0.0) ** 0.5 - float(roots.mean())) / max(0.5, float(roots.std()))
    text, figures = departure_text(d), {**departure_figures(d), "sigmas": sigmas}
    if sigmas >= RAISED_SIGMAS and d.beyond > 1:
        return Observation(slug, text, column, d.step, figures, min(1.0, sigmas / SURE_SIGMAS))
    ending = "normal" if sigmas < USUAL_SIGMAS else "unclear"
    return Observation(f"{slug}_{ending}", text, column, d.step, figures, moved=False)


def rare_tokens(case: Case) -> Observation | None:
    """Whether the batches around the onset have more rare tokens than usual; None where these are not counted."""
    return count_observation(case, "rare_tokens", "data.rare_tokens")


@dataclass(frozen=True)
class Concentration:
    """A rare token that is in `held` of the batch's `batch` distinct samples, and in `known` of the `samples` that the
    log shows. `chance` is the expected number of tokens, of those compared, that are concentrated so by chance."""

    token: int
    held: int
    known: int
    batch: int
    samples: int
    chance: float

    @property
    def share(self) -> float:
        """The share of the token's samples that the batch holds."""
        return self.held / self.known


_CONCENTRATED: WeakKeyDictionary[Case, tuple[Concentration | None, bool]] = WeakKeyDictionary()


def concentrated_token(case: Case) -> Concentration | None:
    """The token that the batch of the onset concentrates most; None where none is, or too few batches show it."""
    return _examined(case)[0]


def concentration_observation(case: Case) -> Observation | None:
    """Whether the batch of the onset holds more of the samples with one rare token than chance; None if not known."""
    dense, known = _examined(case)
    if dense is None:
        text = "token_ids: no rare token is in more samples of the batch than by chance"
        return Observation("data.spread_tokens", text, "token_ids", case.onset, moved=False) if known else None
    percent = number(round(100 * dense.share))
    text = (
        f"token_ids: {case.piece(dense.token)} is in {dense.held} of the {dense.batch} samples of the batch, but in "
        f"only {dense.known} of all {dense.samples:,} in the log, so that this batch holds {percent} % of them"
    )
    figures = {
        "token": dense.token,
        "held": dense.held,
        "known": dense.known,
        "share": dense.share,
        "chance": dense.chance,
    }
    strength = min(1.0, math.log(dense.chance) / math.log(SURE_CHANCE)) if dense.chance > 0 else 1.0
    return Observation("data.concentrated_token", text, "token_ids", case.onset, figures, strength)


def _examined(case: Case) -> tuple[Concentration | None, bool]:
    """(the concentrated token or None, whether enough batches were logged to say so)."""
    if case not in _CONCENTRATED:
        labels = case.labels("token_ids")
        _CONCENTRATED[case] = (None, False) if labels is None else _examine(case, labels)
    return _CONCENTRATED[case]


def _examine(case: Case, labels: LabelSeries) -> tuple[Concentration | None, bool]:
    """Compares samples, because a loader shuffles samples: within one, tokens repeat for reasons of their own.

    The corpus is the set of distinct samples that the log shows, which is an epoch where there was one. If samples are
    shuffled, the number of the batch's samples with a token that is in `known` of `samples` samples is about Poisson
    with the mean known · batch / samples (the hypergeometric law, for a rare token). Rare means: this mean is below 1.
    """
    steps, sizes, (in_row, sample, token) = _pairs(case, labels)
    row = int(np.searchsorted(steps, case.onset))
    if steps.size < FEWEST_BATCHES or row == steps.size or steps[row] != case.onset or not token.size:
        return None, False
    tokens, token = np.unique(token, return_inverse=True)
    samples = int(sample.max()) + 1
    known = np.bincount(np.unique(sample * tokens.size + token) % tokens.size)
    cells, held = np.unique(in_row * tokens.size + token, return_counts=True)
    rows, kinds = np.divmod(cells, tokens.size)
    mean = known[kinds] * sizes[rows] / samples
    # The first term of the Poisson tail, as a logarithm; each further term is smaller by at least the mean.
    factorials = np.cumsum(np.log(np.maximum(np.arange(int(held.max()) + 1), 1)))
    surprise = np.where((mean < 1) & (held >= 2), factorials[held] - held * np.log(mean), 0.0)
    worst = case.numbers_at("worst_token_ids", case.onset)
    compared = np.ones(tokens.size, bool) if worst is None else np.isin(tokens, np.asarray(worst))
    here = np.flatnonzero((rows == row) & (surprise > 0) & compared[kinds])
    if not here.size:
        return None, True
    best = here[int(np.argmax(surprise[here]))]
    others = np.unique(rows[(surprise >= surprise[best]) & (rows != row)]).size / (steps.size - 1)
    rare = int((compared & (known * sizes[row] < samples)).sum())
    chance = rare * math.exp(-float(surprise[best]))
    if others > OTHERS_SHARE or chance > CHANCE:
        return None, True
    kind = int(kinds[best])
    return Concentration(int(tokens[kind]), int(held[best]), int(known[kind]), int(sizes[row]), samples, chance), True


def _pairs(case: Case, labels: LabelSeries) -> tuple[Steps, Steps, tuple[Steps, Steps, Steps]]:
    """(steps, distinct samples of each, (row, sample, token) of every token of these samples, each once) of the rows
    nearest the onset. A sample that comes again, by its id or else by its tokens, has the same number."""
    names = case.labels("sample_ids")
    corpus = _Corpus()
    numbers: dict[int, list[int]] = {}
    left = MOST_TOKENS
    for index in np.argsort(np.abs(labels.step - case.onset), kind="stable").tolist():
        step, samples = int(labels.step[index]), samples_of(labels.value[index])
        left -= sum(map(len, samples))
        if left < 0:
            break
        ids = names_of(names.at(step)) if names is not None else []
        keys = ids if len(ids) == len(samples) else [None] * len(samples)
        present = {corpus.number(tokens, key) for tokens, key in zip(samples, keys, strict=True)}
        numbers[step] = sorted(number for number in present if number is not None)
    steps = np.sort(np.asarray(list(numbers), np.int64))
    sizes = np.asarray([len(numbers[step]) for step in steps.tolist()], np.int64)
    sample = np.asarray([number for step in steps.tolist() for number in numbers[step]], np.int64)
    tokens = [corpus.tokens[number] for number in sample.tolist()]
    lengths = np.asarray([each.size for each in tokens], np.int64)
    row = np.repeat(np.arange(steps.size), sizes)
    token = np.concatenate([np.empty(0, np.int64), *tokens])
    return steps, sizes, (np.repeat(row, lengths), np.repeat(sample, lengths), token)


class _Corpus:
    """Numbers the distinct samples; `tokens` are the distinct tokens of each, int64[n], sorted."""

    def __init__(self) -> None:
        self.tokens: list[Steps] = []
        self._numbers: dict[object, int | None] = {}

    def number(self, row: Sequence[object], key: str | None) -> int | None:
        """The number of a sample, by its `key` or else by its tokens; None if it has other things than tokens in it.
        One that is known by its key is not looked at again: an epoch has the same samples as the one before."""
        if key is not None and key in self._numbers:
            return self._numbers[key]
        tokens = tokens_of(row)
        place: object = key if key is not None else None if tokens is None else tokens.tobytes()
        if place not in self._numbers:
            self._numbers[place] = None if tokens is None else len(self.tokens)
            self.tokens += [] if tokens is None else [np.unique(tokens)]
        return self._numbers[place]


def names_of(value: object) -> list[str]:
    """The names in one cell of sample_ids."""
    return [str(name) for name in _list(value)]


def samples_of(value: object) -> list[Sequence[object]]:
    """The samples of one cell: a list of lists, or one list."""
    rows = _list(value)
    return [_list(row) for row in rows] if rows and _list(rows[0]) else [rows]


def tokens_of(row: Sequence[object]) -> Steps | None:
    """The tokens of a sample, int64[n]; None where it has anything else in it, or nothing."""
    try:
        tokens = np.asarray(row)
    except ValueError:
        return None
    return tokens.astype(np.int64) if tokens.ndim == 1 and tokens.size and tokens.dtype.kind in "iu" else None


def _list(value: object) -> list[object]:
    return cast("list[object]", list(value)) if isinstance(value, (list, tuple, np.ndarray)) else []
