"""What the name of a column says about a loss: train or evaluation, the whole or a part, smoothed or not.

A name is read as a set of words, so that `train/loss`, `Loss_train` and `reduced_train_loss` are one thing. Words that
only say where or over what a loss was taken are left out; what then remains beside "loss" says which part of the loss
it is: `box` in `train/box_loss`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PLACES = frozenset((
    "train", "training", "trainer", "metric", "metrics", "samples", "model", "log", "logs", "stats", "step", "batch",
    "iter", "iteration", "epoch", "current", "curr", "cur", "local", "raw", "reduced", "reduce", "mean", "total",
    "overall", "global", "all", "sum",
))  # fmt: skip
_EVALUATION = frozenset(
    ("val", "valid", "validation", "eval", "evaluation", "dev", "test", "testing", "heldout", "holdout")
)
_SMOOTHED = frozenset(("average", "averaged", "avg", "avr", "ema", "running", "moving", "smooth", "smoothed"))
_WITHOUT_LOSS = frozenset(("nll", "crossentropy"))
"""Words that name a loss by themselves."""

_NO_LOSS = frozenset((
    "scale", "scaler", "scaling", "token", "tokens", "weight", "weights", "coef", "coeff", "coefficient", "ratio",
    "mask", "spike", "std", "var", "variance", "best", "min", "minimum", "max", "maximum", "lr", "count", "improvement",
    "delta", "diff", "change", "gap", "grad", "norm", "threshold", "time", "ppl", "perplexity", "acc", "accuracy",
    "reward", "rewards", "vs",
))  # fmt: skip
"""Words by which a name is none of a loss, whatever else it says: `loss_scale`, `best_val_loss`."""

_ADDED = frozenset((
    "kl", "aux", "auxiliary", "load", "balance", "balancing", "lb", "lbl", "router", "routing", "moe", "z", "reg",
    "regularization", "regularizer", "penalty", "commit", "commitment", "entropy", "mtp",
))  # fmt: skip
"""Words of a term that is added to the loss, and is never taken for it."""

_LOSS = re.compile(r"loss(?:es)?(?![a-z])")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class LossName:
    """A column's name as one of a loss; `part` are the words that say which part of it, none for the whole."""

    name: str
    words: frozenset[str]
    part: frozenset[str]
    evaluation: bool
    smoothed: bool


def loss_name(name: str) -> LossName | None:
    """The name as one of a train or evaluation loss; None where it names something else, or a term that is added."""
    metric = name.rsplit(" - ", 1)[-1]  # W&B's exports put the name of the run before it
    text = re.sub(r"cross[\s_\-.]*entropy", "crossentropy", _CAMEL.sub(" ", metric).lower())
    words = frozenset(_WORD.findall(_LOSS.sub(" loss ", text).replace("_", " ")))
    if words.isdisjoint({"loss", *_WITHOUT_LOSS}) or words & (_NO_LOSS | _ADDED):
        return None
    part = words - _PLACES - _EVALUATION - _SMOOTHED - {"loss"}
    smoothed = "global" not in words and not words.isdisjoint(_SMOOTHED)  # a global average is one over the ranks
    return LossName(name, words, part, not words.isdisjoint(_EVALUATION), smoothed)


def train_losses(names: Iterable[LossName]) -> tuple[LossName, ...]:
    """The train losses from which `loss` may be read: the first is it where it is the only one, or the whole.

    The whole goes before its parts, and a raw one before its smoothed twin. Of several parts none is the loss.
    """
    train = [loss for loss in names if not loss.evaluation]
    whole = sorted((loss for loss in train if not loss.part), key=lambda loss: (loss.smoothed, len(loss.words)))
    if whole:
        return tuple(whole)
    raw = [loss for loss in train if not loss.smoothed]
    twins = {loss.part for loss in raw}
    parts = [*raw, *(loss for loss in train if loss.smoothed and loss.part not in twins)]
    totals = [loss for loss in parts if not loss.words.isdisjoint({"total", "overall"})]
    return tuple(totals if len(totals) == 1 else parts)


def evaluation_losses(names: Sequence[LossName]) -> tuple[LossName, ...]:
    """The evaluation losses from which `eval_loss` may be read, best first.

    A part counts where no other part is logged, of the evaluation or of the train loss: `val/box_loss` beside losses of
    other parts does not say how well the model does.
    """
    evaluation = [loss for loss in names if loss.evaluation]
    parts = {loss.part for loss in names if loss.part}
    chosen = [loss for loss in evaluation if not loss.part] or (evaluation if len(parts) == 1 else [])
    return tuple(sorted(chosen, key=lambda loss: ("test" in loss.words, loss.smoothed, len(loss.words))))
