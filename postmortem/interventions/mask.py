"""Masks the rare and the costliest tokens of suspect batches; all other tokens are trained on."""

from __future__ import annotations

import math
from collections import Counter

from postmortem.change import Change, format_window
from postmortem.interventions import BatchEditor, ReplayContext, as_editable
from postmortem.interventions._values import window
from postmortem.program import Batch, Edit, Editable, Program

PAST = 256  # batches before the suspect ones, from which the usual rate of a token is counted
UNLIKELY = 0.01  # probability of so many occurrences at the usual rate; a token below it counts as rare


class Mask(BatchEditor):
    """Masks the tokens that a batch of [A, B) contains far more often than the 256 batches before it, and those that
    the run recorded as its costliest. A masked token counts neither as a label nor as the input before a label: the
    word after a rare word is as hard to predict as the rare word."""

    name = "mask"
    usage = "A:B"
    batches = True
    summary = "mask the rare tokens of the batches [A, B)"

    def __init__(self, change: Change) -> None:
        self._window = window(change, self.usage)

    @property
    def text(self) -> str:
        return f"mask the rare tokens of batches {format_window(self._window)}"

    def batch(self, program: Program, context: ReplayContext, batch: Batch) -> Batch:
        first, last = self._window
        if not first <= batch.index < last:
            return batch
        editable = as_editable(program, self.text)
        past = Counter[int]()
        for index in range(max(0, first - PAST), first):
            past += _label_counts(editable, program.batch(index))
        rare = concentrated_tokens(_label_counts(editable, batch), past) | context.recorded.costliest_tokens(
            batch.index
        )
        return editable.edited(batch, Edit(masked_tokens=rare)) if rare else batch


def concentrated_tokens(counts: Counter[int], past: Counter[int]) -> frozenset[int]:
    """Tokens that occur in `counts` more often than their rate in `past` explains, by the upper tail of a Poisson
    distribution. One more occurrence is assumed in `past`, so that a new token has a rate, too."""
    share = counts.total() / (past.total() + 1)
    return frozenset(token for token, n in counts.items() if _poisson_tail(n, share * (past[token] + 1)) < UNLIKELY)


def _poisson_tail(n: int, mean: float) -> float:
    """P(X >= n) of a Poisson distribution with this mean."""
    return 1.0 - sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(n))


def _label_counts(program: Editable, batch: Batch) -> Counter[int]:
    return Counter(label for row in program.labels(batch) for label in row)


INTERVENTION = Mask
