"""The rare tokens of suspect batches, and the costliest, count for nothing; the rest of them is trained on."""

from __future__ import annotations

import math
from collections import Counter

from postmortem.change import Change, shown
from postmortem.interventions import Intervention, Scene, editable
from postmortem.interventions._values import window
from postmortem.program import Batch, Edit, Editable, Program

PAST = 256  # batches before the suspect one that say how often a token is met
UNLIKELY = 0.01  # chance to meet a token so often, had its rate stayed: below it, it is concentrated there


class Mask(Intervention):
    """What a batch of [A, B) holds far more often than the 256 batches before it, and what the run recorded as its
    worst tokens, counts for nothing, neither as a label nor as what a label follows: a rare word makes the next one as
    hard to tell."""

    name = "mask"
    usage = "A:B"
    batches = True
    about = "let the rare tokens of the batches [A, B) count for nothing"

    def __init__(self, change: Change) -> None:
        self._window = window(change, self.usage)

    @property
    def text(self) -> str:
        return f"mask the rare tokens of batches {shown(self._window)}"

    def batch(self, program: Program, scene: Scene, batch: Batch) -> Batch:
        first, last = self._window
        if not first <= batch.index < last:
            return batch
        able = editable(program, self.text)
        past = Counter[int]()
        for index in range(max(0, first - PAST), first):
            past += _counts(able, program.batch(index))
        rare = concentrated(_counts(able, batch), past) | scene.recorded.worst_tokens(batch.index)
        return able.edited(batch, Edit(masked_tokens=rare))


def concentrated(here: Counter[int], past: Counter[int]) -> frozenset[int]:
    """Tokens that `here` holds more often than their rate in `past` explains, by the upper tail of a Poisson count; one
    occurrence more is assumed there, so that a token that is new has a rate, too."""
    share = here.total() / (past.total() + 1)
    return frozenset(token for token, n in here.items() if _tail(n, share * (past[token] + 1)) < UNLIKELY)


def _tail(n: int, mean: float) -> float:
    """P(X >= n) of a Poisson count."""
    return 1.0 - sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(n))


def _counts(program: Editable, batch: Batch) -> Counter[int]:
    return Counter(label for row in program.labels(batch) for label in row)


INTERVENTION = Mask
