"""Reads a state-<rank>.json, in which `encoding` writes all state but the large tensors, without torch."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from postmortem.checkpoint.layout import read_small
from postmortem.checkpoint.streaming import count_nonfinite, is_mask
from postmortem.errors import UnreadableInput
from postmortem.small_file import parse_json
from postmortem.text import plain

_LIMIT = 256 * 2**20  # bytes
_LONGEST_NAME = 200  # characters


def read_state_document(file: Path, shown: str) -> dict[str, object]:
    """The encoded state in a state-<rank>.json, called `shown` in messages.

    Raises:
        UnreadableInput: it is not such a file.
    """
    try:
        document: object = parse_json(read_small(file, shown, _LIMIT).decode())
    except ValueError as error:
        raise UnreadableInput("damaged: no JSON, or nested deeper than any state is.", file=shown) from error
    state = cast(dict[str, object], document).get("state") if isinstance(document, dict) else None
    if not isinstance(state, dict):
        raise UnreadableInput("damaged: no JSON object with a state in it.", file=shown)
    return cast(dict[str, object], state)


def state_names(document: Mapping[str, object]) -> set[str]:
    """`section.key` of everything in a document that is not empty."""
    names: set[str] = set()
    for section, value in document.items():
        keys = cast(dict[str, object], value) if isinstance(value, dict) else {"": value}
        names |= {f"{section[:_LONGEST_NAME]}.{key[:_LONGEST_NAME]}" for key in keys if value not in (None, {}, [])}
    return names


def inline_nonfinite(document: Mapping[str, object]) -> dict[str, int]:
    """Dotted path → number of NaN and infinite elements, for the tensors and arrays in a document that have any and are
    no attention masks.

    Raises:
        UnreadableInput: something that `encoding` never writes.
    """
    counts: dict[str, int] = {}
    for path, dtype, data in _arrays(document, ()):
        count = count_nonfinite(dtype, data)
        if count and not is_mask(dtype, [data]):
            counts[".".join(path)[:_LONGEST_NAME]] = count
    return counts


def _arrays(document: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, bytes]]:
    """(path, dtype, bytes) of every tensor and array."""
    if isinstance(document, list):
        for number, inner in enumerate(cast(list[Any], document)):
            yield from _arrays(inner, (*path, str(number)))
    elif isinstance(document, dict):
        for key, inner in cast(dict[str, Any], document).items():
            if key in ("$tensor", "$ndarray", "$numpy"):
                yield path, *_array(inner, key)
            else:
                yield from _arrays(inner, path if key.startswith("$") else (*path, key))


def _array(fields: Any, tag: str) -> tuple[str, bytes]:
    try:
        dtype = str(fields["dtype"]) if tag == "$tensor" else np.dtype(str(fields["dtype"])).name
        return dtype, base64.b64decode(fields["data"], validate=True)
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableInput(f"damaged ({plain(error, 80)}).", file="state") from error
