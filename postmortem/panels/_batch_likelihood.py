"""Measures how likely the tokens of the suspect batch are among the batches around it, and which ids it has too often.

The token ids of the batches around an incident are kept. They make a small language model: the next token by the one
before it (a bigram model with Witten–Bell smoothing, Witten and Bell 1991). Each batch is measured by the model of the
other batches, so that none predicts itself. Random tokens tell how unlikely tokens can be there: they are measured by
the same model. Rare tokens are in random tokens, too, so that a count of rare tokens cannot tell the two apart. But in
a batch of garbage most tokens are unlikely, and in a batch of rare tokens few ids are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from postmortem.case import Case, Observation
from postmortem.diagnosis import Figure
from postmortem.panels._batch_tokens import FEWEST_BATCHES, samples_of, tokens_of
from postmortem.run import LabelSeries
from postmortem.series import Steps
from postmortem.stats import median, robust_sigma
from postmortem.text import number

MOST_BATCHES = 80  # nearest the onset: those that a recorder keeps around an incident
MOST_TOKENS = 250_000  # of these batches; more only take longer
FEWEST_BEFORE = 10  # batches before the onset, outside incidents: fewer do not show what is usual
RANDOM_SAMPLES = 64  # of random tokens
UNLIKE_SHARE = 0.25  # of the batch's samples: fewer cannot move the mean loss by what random tokens cost
MOST_SHARE = 0.5  # of them: garbage, whatever else is in the batch
USUAL_SHARE = 0.2  # of the samples before: with more that are like random tokens, these would not stand out
EXCESS_IDS = 2  # that a batch of rare tokens has too often
EXCESS_FLOOR = 0.01  # of the batch's tokens: an excess below it costs less than a tenth of a nat, at ten nats each
SIGMAS, BEYOND = 6.0, 1.5  # robust sigmas from which an excess stands out, and times the largest one before
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Batches:
    """The batches around an incident, one entry per batch, except where it says otherwise.

    share: of the batch's samples, those that are nearer to random tokens than to the samples before. level: median
    surprise of its tokens in nats. usual, random: one number each, the level of samples before and of random tokens.
    usual_share: one number, `share` over the samples before. worst: the ids that the batch has too often, int[n, 2];
    excess: their share of its tokens above their usual one; times: this share, and the usual one, float[n, 2].
    """

    step: Steps
    before: NDArray[np.bool_]
    share: _Floats
    level: _Floats
    usual: float
    random: float
    usual_share: float
    worst: Steps
    excess: _Floats
    times: _Floats

    @property
    def has_power(self) -> bool:
        """Whether random tokens would stand out."""
        return self.random > self.usual and self.usual_share <= USUAL_SHARE

    @property
    def unlike(self) -> NDArray[np.bool_]:
        """Whether a batch is like random tokens, at least in part, and far more than any batch before."""
        usual = BEYOND * float(self.share[self.before].max())
        return (self.share >= max(UNLIKE_SHARE, usual)) & self.has_power

    @property
    def excessive(self) -> NDArray[np.bool_]:
        """Whether a batch has a few rare ids far more often than any batch before."""
        past = self.excess[self.before]
        beyond = self.excess > max(BEYOND * float(past.max()), EXCESS_FLOOR)
        return beyond & (self.excess - float(median(past)) > SIGMAS * robust_sigma(past))


def likelihood_observation(case: Case) -> Observation | None:
    """Whether the tokens of a batch of the incident are as unlikely as random ones, or it has a few ids too often, or
    all are like the batches around it. None where too few batches were kept, or random tokens would not stand out."""
    labels = case.labels("token_ids")
    batches = None if labels is None else _measure(case, labels)
    if batches is None:
        return None
    inside = (batches.step >= case.onset) & (batches.step <= case.incident.peak_step)
    # Where fewer than most samples are unlikely, the few ids that come too often may be why.
    mostly = batches.unlike & (batches.share >= MOST_SHARE)
    kinds = ("data.unlikely", mostly), ("data.excess_tokens", batches.excessive), ("data.unlikely", batches.unlike)
    for slug, shown in kinds:
        rows = np.flatnonzero(inside & shown)
        if rows.size:
            return _unusual(case, slug, batches, int(rows[0]))
    onset = np.flatnonzero(batches.step == case.onset)
    if not onset.size or not batches.has_power or batches.share[inside].max() > UNLIKE_SHARE / 2:
        return None
    text = f"token_ids: the tokens are as likely as usual: {_levels(batches, int(onset[0]))}"
    figures = _figures(batches, int(onset[0]))
    return Observation("data.likely", text, "token_ids", case.onset, figures, moved=False)


def _unusual(case: Case, slug: str, batches: _Batches, row: int) -> Observation:
    step, figures, strength = int(batches.step[row]), _figures(batches, row), 1.0
    if slug == "data.unlikely":
        share = float(batches.share[row])
        strength = min(1.0, 2 * share)
        text = (
            f"{number(round(100 * share))} % of the samples are as unlikely as random tokens: {_levels(batches, row)}"
        )
    else:
        names = " and ".join(case.piece(token) for token in batches.worst[row].tolist())
        here, usual = (number(round(100 * float(share), 1)) for share in batches.times[row])
        text = f"{names} are {here} % of the tokens of step {step}, and {usual} % of those around it"
    return Observation(slug, f"token_ids: {text}", "token_ids", step, figures, strength)


def _levels(batches: _Batches, row: int) -> str:
    return (
        f"by the batches around it, a token of step {batches.step[row]} has a median surprise of "
        f"{number(float(batches.level[row]))} nats, usually {number(batches.usual)}, "
        f"and {number(batches.random)} if it is random"
    )


def _figures(batches: _Batches, row: int) -> dict[str, Figure]:
    of_row = {name: float(getattr(batches, name)[row]) for name in ("share", "level", "excess")}
    return {**of_row, "usual": batches.usual, "random": batches.random}


def _measure(case: Case, labels: LabelSeries) -> _Batches | None:
    steps, tokens, lengths, row = batches_near(case, labels)
    before = (steps < case.onset) & ~np.asarray([in_incident(case, step) for step in steps.tolist()], bool)
    if steps.size <= FEWEST_BATCHES or before.sum() < FEWEST_BEFORE:
        return None
    ids, token = np.unique(tokens, return_inverse=True)
    length = int(median(lengths))
    random = np.random.default_rng(0).integers(ids.size, size=(RANDOM_SAMPLES, length))  # the same in each draft
    token = np.concatenate([token, random.ravel()])
    lengths = np.concatenate([lengths, np.full(RANDOM_SAMPLES, length)])
    row = np.concatenate([row, np.full(RANDOM_SAMPLES, steps.size)])  # the last row
    sample, of_token = np.repeat(np.arange(lengths.size), lengths), np.repeat(row, lengths)
    counts = np.bincount(of_token * ids.size + token, minlength=(steps.size + 1) * ids.size).reshape(-1, ids.size)
    excess, worst, times = _excess(counts[:-1], length)
    follows = sample[1:] == sample[:-1]
    first, second, of_pair = token[:-1][follows], token[1:][follows], of_token[1:][follows]
    surprise = _surprise(of_pair, first, second, counts, case.run.manifest.vocab_size)
    # Only the tokens beside those that a batch has too often: after a rare id, any token is unlikely.
    own = np.concatenate([worst, np.full((1, worst.shape[1]), -1)])[of_pair]
    counted = ~((own == first[:, None]) | (own == second[:, None])).any(1)
    level = _medians(surprise[counted], sample[1:][follows][counted], lengths.size)
    usual_samples = np.append(before, np.False_)[row]
    usual = float(np.nanmedian(level[usual_samples]))
    at_random = float(median(level[row == steps.size]))
    unlike = level > (usual + at_random) / 2
    return _Batches(
        steps,
        before,
        np.bincount(row, unlike)[:-1] / np.bincount(row)[:-1],
        np.nan_to_num(_medians(surprise[counted], of_pair[counted], steps.size + 1)[:-1], nan=usual),
        usual,
        at_random,
        float(unlike[usual_samples].mean()),
        ids[worst],
        excess,
        times,
    )


def batches_near(case: Case, labels: LabelSeries) -> tuple[Steps, Steps, Steps, Steps]:
    """(steps, all tokens, number of tokens of each sample, row of each sample) of the batches nearest the onset,
    without samples of one token and batches that have no others."""
    near = np.argsort(np.abs(labels.step - case.onset), kind="stable")[:MOST_BATCHES]
    kept: dict[int, list[Steps]] = {}
    left = MOST_TOKENS
    for index in near.tolist():
        samples = [tokens for row in samples_of(labels.value[index]) if (tokens := tokens_of(row)) is not None]
        left -= sum(tokens.size for tokens in samples)
        if left < 0:
            break
        if long := [tokens for tokens in samples if tokens.size > 1]:
            kept[int(labels.step[index])] = long
    steps = np.sort(np.asarray(list(kept), np.int64))
    samples = [tokens for step in steps.tolist() for tokens in kept[step]]
    row = np.repeat(np.arange(steps.size), [len(kept[step]) for step in steps.tolist()])
    return (
        steps,
        np.concatenate([np.empty(0, np.int64), *samples]),
        np.asarray([tokens.size for tokens in samples], np.int64),
        row,
    )


def in_incident(case: Case, step: int) -> bool:
    """Whether an incident of the run spans `step`."""
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


def _excess(counts: Steps, length: int) -> tuple[_Floats, Steps, _Floats]:
    """(the share of each row's tokens that its most excessive ids have above their usual share, float[rows]; the places
    of these ids, int[rows, 2]; their share in the row and in the others, float[rows, 2]). Only ids that most samples do
    not have: more of a frequent one is no rarity."""
    sizes = counts.sum(1, keepdims=True)
    usual = (counts.sum(0) - counts) / np.maximum(sizes.sum() - sizes, 1)
    gain = np.where(usual * length < 1, counts / sizes - usual, 0.0)
    worst = np.argsort(-gain, axis=1)[:, :EXCESS_IDS]
    shares = [np.take_along_axis(of, worst, 1).sum(1) for of in (counts / sizes, usual)]
    return np.maximum(np.take_along_axis(gain, worst, 1), 0.0).sum(1), worst, np.stack(shares, 1)
