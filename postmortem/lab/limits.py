"""How large the lab's program may be: its config comes from a run, which may come from strangers.

The lab is driven without --trust, because it is part of this package. So a config may ask it for no more than a small
training takes. What it would take is calculated before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from postmortem.errors import UsageError
from postmortem.text import plain

MOST_BYTES = 2**30
"""Memory for parameters, gradients, moments and activations."""

MOST_OPERATIONS = 10**11
"""Of one step, forward and backward: a few seconds on one core."""

_HELD_OUT = 64  # samples of an evaluation
_BUFFERS = 6  # float32 copies of the parameters: values, gradients, two moments, the values before an update, a save
_WIDTHS = 24  # numbers per token and layer that are kept for the backward pass, in widths of the model
_NUMBERS: Mapping[str, tuple[int, int]] = {  # key → (least, most)
    "model.width": (1, 4096),
    "model.layers": (1, 64),
    "model.heads": (1, 256),
    "model.context": (1, 4096),
    "data.sentences": (1, 8000),  # the grammar of the corpus has some 12,000, and more would be looked for without end
    "data.shards": (1, 8000),
    "data.vocab": (1, 20_000),
    "data.batch_size": (1, 8000),
}
_MOST_STREAM_SAMPLES = 1_000_000
_INSTEAD = "The lab trains small models; a program of your own has no such limits: --program module:factory"


def check_size(config: Mapping[str, Any]) -> None:
    """Refuse a lab config that would take more memory, or longer steps, than any run of the lab.

    Raises:
        UsageError: a size is missing, no whole number or too large; the message names the key and the limit.
    """
    size = {name: _number(config, name, *limits) for name, limits in _NUMBERS.items()}
    width, layers, context = size["model.width"], size["model.layers"], size["model.context"]
    vocab, samples = size["data.vocab"], max(size["data.batch_size"], _HELD_OUT)
    parameters = layers * (12 * width + 2) * width + (2 * vocab + context + 1) * width
    per_sample = context * (layers * (_WIDTHS * width + 3 * size["model.heads"] * context) + 4 * vocab)
    needed = 4 * (_BUFFERS * parameters + samples * per_sample)
    if needed > MOST_BYTES:
        _refuse(f"model and batches would take {needed / 2**30:,.1f} GiB of memory", f"{MOST_BYTES >> 30} GiB")
    operations = 6 * samples * context * (parameters + layers * context * width)
    if operations > MOST_OPERATIONS:
        _refuse(f"a step would take {operations:.1g} operations", f"{MOST_OPERATIONS:.0e}")
    stream_samples = size["data.batch_size"] * sum(_stream_batches(config))
    if stream_samples > _MOST_STREAM_SAMPLES:
        _refuse(f"data.streams has {stream_samples} samples", f"{_MOST_STREAM_SAMPLES:,}")


def _number(config: Mapping[str, Any], name: str, least: int, most: int) -> int:
    section, _, key = name.partition(".")
    keys = config.get(section)
    value = cast("dict[str, Any]", keys).get(key) if isinstance(keys, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value // 1:
        raise UsageError(f"config: {name} is {plain(value, 60)}, where the lab needs a whole number")
    if not least <= value <= most:
        _refuse(f"{name} is {plain(value, 60)}", f"{least} to {most}")
    return int(value)


def _stream_batches(config: Mapping[str, Any]) -> list[int]:
    """Batches of each stream; what is no list of streams is left to the loader, which refuses it."""
    streams: object = config["data"].get("streams")
    if not isinstance(streams, list):
        return []
    batches = [cast("dict[str, Any]", s).get("batches") for s in cast("list[object]", streams) if isinstance(s, dict)]
    return [count for count in batches if isinstance(count, int)]


def _refuse(what: str, limit: str) -> None:
    raise UsageError(f"config: {what}; the lab's limit is {limit}. {_INSTEAD}")
