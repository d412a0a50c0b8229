"""The rare tokens of suspect batches count for nothing; the rest of them is trained on."""

from __future__ import annotations

from collections import Counter

from postmortem.program import Batch, Edit, Editable, Program
from postmortem.replay.interventions import Intervention, Scene, editable
from postmortem.replay.interventions._values import shown, window

PAST = 256  # batches before the suspect one that say how often a token is met
TIMES = 10.0  # a token met this much more often than it was is concentrated there


class Mask(Intervention):
    """Labels of tokens that a batch of [A, B) holds ten times as often as the 256 batches before it are masked."""

    name = "mask"
    usage = "A:B"
    about = "let the rare tokens of the batches [A, B) count for nothing"

    def __init__(self, value: str) -> None:
        self._window = window(self.name, value)

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
        return able.edited(batch, Edit(masked_tokens=concentrated(_counts(able, batch), past)))


def concentrated(here: Counter[int], past: Counter[int]) -> frozenset[int]:
    """Tokens whose share of `here` is ten times that of `past`, one more occurrence there being assumed."""
    total, before = max(1, here.total()), past.total() + 1
    return frozenset(token for token, n in here.items() if n / total >= TIMES * (past[token] + 1) / before)


def _counts(program: Editable, batch: Batch) -> Counter[int]:
    return Counter(label for row in program.labels(batch) for label in row)


INTERVENTION = Mask
