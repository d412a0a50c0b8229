"""What the keys of an event mean: skipped batches, pieces that were not restored, and what a setting is about.

Keys come from strangers: whatever has an unexpected type is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal, TypeAlias, cast

from postmortem.change import Window
from postmortem.run.journal import Event, step_number
from postmortem.run.values import parse_number
from postmortem.text import plain

_MOST_TEXTS = 1_000
_KEY_LENGTH = 160

Setting: TypeAlias = Literal["learning rate", "schedule", "batch size", "data", "precision", "clipping", "other"]
"""What a setting is about, by its name."""

_WORDS = re.compile(r"[^a-z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SCHEDULE = frozenset({"schedule", "scheduler", "warmup", "decay", "cooldown", "anneal", "min", "final", "end", "step"})
_DATA = frozenset({"data", "dataset", "datasets", "shard", "shards", "mixture", "corpus", "tokenizer", "sources"})
_NOT_DATA = frozenset({"parallel", "workers", "threads", "prefetch", "cache"})
_BATCH_SIZE = (
    *({"batch", "size"}, {"batchsize"}, {"bsz"}, {"world", "size"}, {"accum"}, {"accumulate"}, {"accumulation"}),
    *({"sequence", "length"}, {"seq", "len"}, {"seq", "length"}, {"seqlen"}, {"tokens", "per", "step"}),
)
"""Words that together mean what one update is computed from."""
_PRECISION = frozenset({"dtype", "precision", "fp16", "bf16", "amp"})

_PIECES: Mapping[str, frozenset[str]] = {
    "model": frozenset({"model", "module", "params", "parameters", "weights"}),
    "optimizer": frozenset({"optimizer", "optimizers", "optim", "opt", "moments"}),
    "schedule": frozenset({"schedule", "scheduler", "schedulers", "sched"}),
    "loader": frozenset({"loader", "dataloader", "sampler", "data"}),
    "scaler": frozenset({"scaler", "gradscaler"}),
    "rng": frozenset({"rng", "random", "seed"}),
}


def parse_windows(value: object) -> tuple[Window, ...]:
    """`[[312, 512]]` or `[312, 512]` as windows [first, last); anything else is left out."""
    if not isinstance(value, (list, tuple)):
        return ()
    items = cast("Sequence[object]", value)
    pair = [step_number(item) for item in items]
    if len(pair) == 2 and pair[0] is not None and pair[1] is not None:
        return ((pair[0], pair[1]),) if pair[0] < pair[1] else ()
    return tuple(
        window for item in items if isinstance(item, (list, tuple)) for window in parse_windows(cast(object, item))
    )


def not_restored(event: Event) -> tuple[str, ...] | None:
    """The names of the pieces of the state that a resume did not restore, by the journal; () where it restored all,
    and None where the journal does not say. Parameters alone are no optimizer."""
    missing, restored = texts(event.keys.get("missing")), texts(event.keys.get("restored"))
    reset = event.keys.get("optimizer_reset") is True or event.keys.get("contents") == "parameters"
    kinds = {piece_kind(name) for name in restored or ()}
    alone = missing is None and "model" in kinds and "optimizer" not in kinds
    if (reset or alone) and not any(piece_kind(name) == "optimizer" for name in missing or ()):
        return ("optimizer", *(missing or ()))
    return missing


def piece_kind(name: str) -> str:
    """What a piece of the state is, by its name: `model`, `optimizer`, `schedule`, `loader`, `scaler`, `rng`, or ""."""
    words = set(_words(name))
    return next((kind for kind, known in _PIECES.items() if words & known), "")


def setting_kind(key: object) -> Setting:
    """What a setting of this name is about."""
    words = set(_words(str(key)[:_KEY_LENGTH]))
    if {"clip", "clipping"} & words or {"max", "grad", "norm"} <= words:
        return "clipping"
    rate = "lr" in words or {"learning", "rate"} <= words
    if {"warmup", "scheduler", "schedule"} & words or (rate and _SCHEDULE & words):
        return "schedule"
    if rate:
        return "learning rate"
    if _PRECISION & words:
        return "precision"
    if any(together <= words for together in _BATCH_SIZE):
        return "batch size"
    return "data" if _DATA & words and not _NOT_DATA & words else "other"


def old_and_new(event: Event) -> tuple[float | None, float | None]:
    """The values of `old` and `new` as numbers, None where they are none."""
    return as_number(event.keys.get("old")), as_number(event.keys.get("new"))


def is_half(value: object) -> bool:
    """Whether a value of a setting means fp16, whose largest magnitude is 65,504."""
    text = str(value)[:40].lower()
    return ("16" in text or "half" in text) and "bf" not in text and "b16" not in text and "bfloat" not in text


def _words(name: str) -> list[str]:
    return [word for word in _WORDS.split(_CAMEL.sub("_", name).lower()) if word]


def as_number(value: object) -> float | None:
    """`value` as a number, or None where it is none."""
    try:
        return parse_number(value)
    except ValueError:
        return None


def texts(value: object) -> tuple[str, ...] | None:
    """The texts in a list, harmless; None where `value` is no list."""
    if not isinstance(value, (list, tuple)):
        return None
    return tuple(
        plain(item, 60) for item in islice(cast("Sequence[object]", value), _MOST_TEXTS) if isinstance(item, str)
    )
