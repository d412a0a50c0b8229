"""Measures how likely the tokens of the suspect batch are among the batches around it, and which ids it has too often.

The token ids of the batches around an incident are kept. They make a small language model: the next token by the one
before it (a bigram model with Witten–Bell smoothing, Witten and Bell 1991). Each batch is measured by the model of the
other batches, so that none predicts itself. Random tokens tell how unlikely tokens can be there: they are measured by
the same model. Rare tokens are in random tokens, too, so that a count of rare tokens cannot tell the two apart. But in
a batch of garbage most tokens are unlikely, and in a batch of rare tokens few ids are.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from postmortem.case import MOVED_BEYOND, MOVED_Z, Case, Observation
from postmortem.panels._batch_tokens import FEWEST_BATCHES, samples_of, tokens_of
from postmortem.run import LabelSeries
from postmortem.series import Steps
from postmortem.stats import robust_sigma
from postmortem.text import number

MOST_BATCHES = 80  # nearest the onset: those that a recorder keeps around an incident
MOST_TOKENS = 250_000  # of these batches; more only take longer
FEWEST_BEFORE = 10  # batches before the onset, outside incidents: fewer do not show what is usual
RANDOM_SAMPLES = 64  # of random tokens
UNLIKE_SHARE = 0.25  # of the batch's samples: fewer cannot move the mean loss by what random tokens cost
USUAL_SHARE = 0.05  # of the samples before: with more that are like random tokens, such samples are part of the corpus
EXCESS_IDS = 2  # that a batch of rare tokens has too often
EXCESS_FLOOR = 0.01  # of the batch's tokens: an excess below it costs less than a tenth of a nat, at ten nats each
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Likelihood:
    """share: of the batch's samples, those that are more like random tokens than like the samples before. level, usual,
    random: median surprise of a token in nats, of the batch, of the samples before, and of random tokens. excess: the
    share of the batch's tokens that its `ids` have above their usual one, with the largest such excess before."""

    share: float
    usual_share: float
    level: float
    usual: float
    random: float
    ids: tuple[int, ...]
    ids_share: float
    ids_usual: float
    excess: float
    excess_moved: bool

    @property
    def has_power(self) -> bool:
        """Whether random tokens would stand out."""
        return self.random > self.usual and self.usual_share <= USUAL_SHARE

    @property
    def unlike(self) -> bool:
        """Whether the batch is like random tokens, at least in part."""
        return self.has_power and self.share >= UNLIKE_SHARE


_MEASURED: WeakKeyDictionary[Case, _Likelihood | None] = WeakKeyDictionary()


def likelihood_observation(case: Case) -> Observation | None:
    """Whether the tokens of the batch of the onset are as unlikely as random ones, or a few ids are too frequent, or it
    is like the batches around it. None where too few batches were kept, or random tokens would not stand out."""
    if case not in _MEASURED:
        labels = case.labels("token_ids")
        _MEASURED[case] = None if labels is None else _measure(case, labels)
    measured = _MEASURED[case]
    if measured is None:
        return None
    figures = {
        "share": measured.share,
        "level": measured.level,
        "usual": measured.usual,
        "random": measured.random,
        "excess": measured.excess,
    }
    levels = (
        f"by the batches around it, a token has a median surprise of {number(measured.level)} nats, usually "
        f"{number(measured.usual)}, and {number(measured.random)} if it is random"
    )
    if measured.unlike:
        percent = number(round(100 * measured.share))
        text = f"token_ids: {percent} % of the batch's samples are as unlikely as random tokens: {levels}"
        return Observation("data.unlikely", text, "token_ids", case.onset, figures, min(1.0, 2 * measured.share))
    if measured.excess_moved:
        names = " and ".join(case.piece(token) for token in measured.ids)
        here, usual = (number(round(100 * share, 1)) for share in (measured.ids_share, measured.ids_usual))
        text = f"token_ids: {names} are {here} % of the batch's tokens, and {usual} % of those around it"
        return Observation("data.excess_tokens", text, "token_ids", case.onset, figures)
    if not measured.has_power or measured.share > measured.usual_share + UNLIKE_SHARE / 2:
        return None
    text = f"token_ids: the tokens are as likely as usual: {levels}"
    return Observation("data.likely", text, "token_ids", case.onset, figures, moved=False)


def _measure(case: Case, labels: LabelSeries) -> _Likelihood | None:
    rows = _rows(case, labels)
    if rows is None:
        return None
    steps, tokens, lengths, row = rows
    suspect = int(np.searchsorted(steps, case.onset))
    before = np.asarray([step < case.onset and not _in_incident(case, step) for step in steps.tolist()])
    if steps.size <= FEWEST_BATCHES or before.sum() < FEWEST_BEFORE or not (row == suspect).any():
        return None
    ids, token = np.unique(tokens, return_inverse=True)
    length = int(np.median(lengths))
    random = np.random.default_rng(0).integers(ids.size, size=(RANDOM_SAMPLES, length))  # the same in each draft
    token = np.concatenate([token, random.ravel()])
    lengths = np.concatenate([lengths, np.full(RANDOM_SAMPLES, length)])
    row = np.concatenate([row, np.full(RANDOM_SAMPLES, steps.size)])
    sample = np.repeat(np.arange(lengths.size), lengths)
    counts = np.bincount(np.repeat(row, lengths) * ids.size + token, minlength=(steps.size + 1) * ids.size)
    counts = counts.reshape(steps.size + 1, ids.size)
    excess, worst = _excess(counts[:-1], length, suspect)
    follows = sample[1:] == sample[:-1]
    place, pair_row = sample[1:][follows], np.repeat(row, lengths)[1:][follows]
    first, second = token[:-1][follows], token[1:][follows]
    surprise = _surprise(pair_row, first, second, counts, case.run.manifest.vocab_size)
    # Of the suspect batch, the tokens beside its excessive ids: after a rare id, any token is unlikely.
    counted = (pair_row != suspect) | ~(np.isin(first, worst) | np.isin(second, worst))
    surprise, place, pair_row = surprise[counted], place[counted], pair_row[counted]
    level = _medians(surprise, place, lengths.size)
    usual = float(np.median(level[np.isin(row, np.flatnonzero(before))]))
    at_random = float(np.median(level[row == steps.size]))
    unlike = level > (usual + at_random) / 2  # nearer to random tokens than to the samples before
    here = surprise[pair_row == suspect]
    past = excess[before]
    moved = excess[suspect] > max(MOVED_BEYOND * float(past.max()), EXCESS_FLOOR)
    moved &= excess[suspect] - float(np.median(past)) > MOVED_Z * robust_sigma(past)
    others = np.arange(steps.size) != suspect
    return _Likelihood(
        float(unlike[row == suspect].mean()),
        float(unlike[np.isin(row, np.flatnonzero(before))].mean()),
        float(np.median(here)) if here.size else usual,
        usual,
        at_random,
        tuple(int(ids[place]) for place in worst),
        float(counts[suspect, worst].sum() / counts[suspect].sum()),
        float(counts[:-1][others][:, worst].sum() / counts[:-1][others].sum()),
        float(excess[suspect]),
        bool(moved),
    )


def _rows(case: Case, labels: LabelSeries) -> tuple[Steps, Steps, Steps, Steps] | None:
    """(steps, tokens of all samples in a row, tokens of each sample, row of each sample) of the batches nearest the
    onset, without samples of one token; None where the batch of the onset is not among them."""
    near = np.argsort(np.abs(labels.step - case.onset), kind="stable")[:MOST_BATCHES]
    kept: dict[int, list[Steps]] = {}
    left = MOST_TOKENS
    for index in near.tolist():
        samples = [tokens for row in samples_of(labels.value[index]) if (tokens := tokens_of(row)) is not None]
        left -= sum(tokens.size for tokens in samples)
        if left < 0:
            break
        kept[int(labels.step[index])] = [tokens for tokens in samples if tokens.size > 1]
    if not kept.get(case.onset):
        return None
    steps = np.sort(np.asarray(list(kept), np.int64))
    samples = [tokens for step in steps.tolist() for tokens in kept[step]]
    row = np.repeat(np.arange(steps.size), [len(kept[step]) for step in steps.tolist()])
    return steps, np.concatenate(samples), np.asarray([tokens.size for tokens in samples], np.int64), row


def _in_incident(case: Case, step: int) -> bool:
    return any(incident.onset_step <= step <= incident.peak_step for incident in case.incidents)


def _surprise(row: Steps, first: Steps, second: Steps, counts: Steps, vocabulary: int | None) -> _Floats:
    """−ln p of `second` after `first` in nats, float[n], by the bigrams of all rows but its own and the last, which has
    the random tokens. `counts` is int[rows + 1, ids]."""
    ids, known = counts.shape[1], row < len(counts) - 1
    total = counts[:-1].sum(0)
    pairs, pair = np.unique(first * ids + second, return_inverse=True)
    of_pair = np.bincount(pair[known], minlength=pairs.size)
    cells, cell, own = np.unique(row * pairs.size + pair, return_inverse=True, return_counts=True)
    own = np.where(cells // pairs.size < len(counts) - 1, own, 0)
    # Followers of each token: of all rows, and those that only this row has.
    followers = np.bincount(pairs[of_pair > 0] // ids, minlength=ids)
    alone = own == of_pair[cells % pairs.size]
    place = cells // pairs.size * ids + pairs[cells % pairs.size] // ids
    lost = np.bincount(place[alone & (own > 0)], minlength=counts.size).reshape(counts.shape)
    mine = np.where(np.arange(len(counts))[:, None] < len(counts) - 1, counts, 0)
    # Contexts are counted as pairs: the last token of a sample has no follower.
    contexts = np.bincount(row * ids + first, minlength=counts.size).reshape(counts.shape)
    contexts[-1] = 0
    context = contexts.sum(0)[first] - contexts[row, first]
    distinct = followers[first] - lost[row, first]
    number_of_tokens = total.sum() - mine.sum(1)[row]
    kinds = np.count_nonzero(total)
    unigram = (total[second] - mine[row, second] + kinds / max(vocabulary or 0, ids)) / (number_of_tokens + kinds)
    seen = of_pair[pair] - own[cell]
    return -np.log(np.where(context > 0, (seen + distinct * unigram) / np.maximum(context + distinct, 1), unigram))


def _medians(values: _Floats, group: Steps, groups: int) -> _Floats:
    """The median of the values of each group, float[groups]; NaN where it has none."""
    order = np.lexsort((values, group))
    size = np.bincount(group, minlength=groups)
    start = np.cumsum(size) - size
    ordered = np.append(values[order], np.nan)
    low, high = start + (size - 1) // 2, start + size // 2
    middle = (ordered[np.clip(low, 0, values.size)] + ordered[np.clip(high, 0, values.size)]) / 2
    return np.where(size > 0, middle, np.nan)


def _excess(counts: Steps, length: int, suspect: int) -> tuple[_Floats, Steps]:
    """(the share of each row's tokens that its most excessive ids have above their usual share, float[rows]; the places
    of these ids in the suspect row). Only ids that most samples do not have: more of a frequent one is no rarity."""
    sizes = counts.sum(1, keepdims=True)
    total = counts.sum(0)
    usual = (total - counts) / np.maximum(sizes.sum() - sizes, 1)
    gain = np.where(usual * length < 1, counts / sizes - usual, 0.0)
    top = min(EXCESS_IDS, counts.shape[1])
    worst = np.argpartition(gain, -top, axis=1)[:, -top:]
    best = worst[suspect][np.argsort(-gain[suspect, worst[suspect]])]
    return np.maximum(np.take_along_axis(gain, worst, 1), 0.0).sum(1), best[gain[suspect, best] > 0]
