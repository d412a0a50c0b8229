"""Measures what repeats in the suspect batch: samples that earlier batches had, and periodic tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from postmortem.case import Case, Observation
from postmortem.panels._batch_likelihood import BEYOND, FEWEST_BEFORE, batches_near, in_incident
from postmortem.series import Steps
from postmortem.stats import median
from postmortem.text import count, number

LEAST_SHARE = 0.25  # of the batch: less is not what the incident is about
LONGEST_PERIOD = 13  # tokens, of the spans that are known to break trainings (the OLMo 2 report filters 1 to 13)
_Floats = NDArray[np.float64]


def repeat_observations(case: Case) -> list[Observation]:
    """What repeats in the batch of the onset, far more than in any batch before it."""
    labels = case.labels("token_ids")
    if labels is None:
        return []
    steps, tokens, lengths, row = batches_near(case, labels)
    before = (steps < case.onset) & ~np.asarray([in_incident(case, step) for step in steps.tolist()], bool)
    onset = np.flatnonzero(steps == case.onset)
    if not onset.size or before.sum() < FEWEST_BEFORE:
        return []
    observations: list[Observation] = []
    for slug, measure, what in (
        ("data.samples_again", _again, "the samples were in the {} before"),
        ("data.periodic", _periodic, f"the tokens repeat those up to {LONGEST_PERIOD} places before"),
    ):
        share = measure(steps.size, tokens, lengths, row)
        here, usual = float(share[onset[0]]), share[before]
        if here >= max(LEAST_SHARE, BEYOND * float(usual.max())):
            repeated = what.format(count(int(onset[0]), "batch"))
            percents = [number(round(100 * float(value))) for value in (here, median(usual))]
            text = f"token_ids: {percents[0]} % of {repeated}, usually {percents[1]} %"
            observations.append(Observation(slug, text, "token_ids", case.onset, {"share": here}, min(1.0, 2 * here)))
    return observations


def _again(rows: int, tokens: Steps, lengths: Steps, row: Steps) -> _Floats:
    """The share of each batch's samples that are in an earlier batch, token by token."""
    ends = np.cumsum(lengths)
    first: dict[bytes, int] = {}
    again = np.zeros(lengths.size)
    for sample, (start, end) in enumerate(zip((ends - lengths).tolist(), ends.tolist(), strict=True)):
        again[sample] = first.setdefault(tokens[start:end].tobytes(), int(row[sample])) < row[sample]
    return np.bincount(row, again, minlength=rows) / np.bincount(row, minlength=rows)


def _periodic(rows: int, tokens: Steps, lengths: Steps, row: Steps) -> _Floats:
    """The largest share, over periods, of each batch's tokens that are equal to the token one period before."""
    sample, of_token = np.repeat(np.arange(lengths.size), lengths), np.repeat(row, lengths)
    sizes, most = np.bincount(of_token, minlength=rows), np.zeros(rows)
    for period in range(1, LONGEST_PERIOD + 1):
        equal = (tokens[period:] == tokens[:-period]) & (sample[period:] == sample[:-period])
        most = np.maximum(most, np.bincount(of_token[period:], equal, minlength=rows) / sizes)
    return most
