"""What a batch of somebody else's loop holds, looked at without knowing the loop: its rows, ids and labels.

A batch is one of the usual forms: a mapping with `labels` beside its inputs, a pair (inputs, labels), or a tensor of
ids. Along the first dimension of its tensors lie the rows. Labels of -100 count for nothing, as in torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from postmortem.errors import UsageError
from postmortem.program import Edit
from postmortem.record.hashing import batch_hash
from postmortem.record.ring import ids_of

IGNORED = -100
_LABELS = ("labels", "label", "targets", "target", "y")
_IDS = ("input_ids", "tokens", "ids", "x")


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that one update consumes: `parts` are its micro-batches, in the form in which the loop takes them."""

    index: int
    parts: tuple[Any, ...]


def facts(parts: Sequence[Any]) -> dict[str, Any]:
    """What a row in batches/ tells of `parts`, as far as they tell it: `batch_hash`, `tokens`, `valid_labels`.

    The hash is that of `Recorder.batch`: of the ids, those of several micro-batches joined along the first dimension
    (or as one line of ids where the others differ).
    """
    try:
        found = [ids_of(part) for part in parts]
    except UsageError:
        return {}
    ids = [one if isinstance(one, np.ndarray) else one.cpu().numpy() for one in found]
    if len({one.shape[1:] for one in ids}) > 1:
        ids = [one.reshape(-1) for one in ids]
    whole = ids[0] if len(ids) == 1 else np.concatenate(ids)
    row: dict[str, Any] = {"batch_hash": batch_hash(whole)}
    if whole.dtype.kind in "iu":
        row["tokens"] = int(whole.size)
    given = [one for part in parts if (one := _labels(part)) is not None]
    if given and not any(one.is_floating_point() for one in given):
        row["valid_labels"] = sum(int((one != IGNORED).sum()) for one in given)
    return row


def counting(parts: Sequence[Any]) -> list[list[int]]:
    """The labels that count, row by row. Where there are none, the ids themselves; numbers that are no labels of
    anything (a regression's) leave their rows empty."""
    rows: list[list[int]] = []
    for part in parts:
        labels = _labels(part)
        known = _ids(part) if labels is None else labels
        if known is None or known.is_floating_point():
            rows += [[] for _ in range(_rows(part))]
        else:
            rows += [[one for one in row if one != IGNORED] for row in known.reshape(len(known), -1).tolist()]
    return rows


def edited(batch: Gathered, edit: Edit) -> Gathered:
    """`batch` with `edit` in it.

    Where a label is to count again, it is the last one that the inputs tell: that of the same position in a mapping
    (whose model shifts by one), that of the position before in a pair.

    Raises:
        UsageError: the batch holds nothing that the edit could change.
    """
    parts = list(batch.parts)
    if edit.without_rows:
        parts = _without(parts, edit.without_rows)
    if edit.masked_tokens:
        masked = torch.tensor(sorted(edit.masked_tokens))
        parts = [
            _relabelled(part, lambda one: one.masked_fill(torch.isin(one, masked.to(one.device)), IGNORED))
            for part in parts
        ]
    if edit.unmask and not any(counting(parts)):
        parts[0] = _relabelled(parts[0], lambda one, part=parts[0]: _unmasked(part, one))
    return Gathered(batch.index if edit.index is None else edit.index, tuple(parts))


def fresh(parts: Sequence[Any]) -> tuple[Any, ...]:
    """Shallow copies of `parts`: a loop may take labels out of the mapping that it is given."""
    return tuple(copy.copy(part) if isinstance(part, Mapping) else part for part in parts)


def _tensors(part: Any) -> Iterator[tuple[Any, Tensor]]:
    """(key, tensor) of all tensors at the top of a batch; the key of a tensor alone is None."""
    if isinstance(part, Tensor):
        yield None, part
    elif isinstance(part, Mapping):
        yield from ((k, v) for k, v in cast(Mapping[Any, Any], part).items() if isinstance(v, Tensor))
    elif isinstance(part, (list, tuple)):
        yield from ((k, v) for k, v in enumerate(cast(list[Any], part)) if isinstance(v, Tensor))


def _changed(part: Any, change: Callable[[Any, Tensor], Tensor]) -> Any:
    """A copy of a batch whose tensors are `change(key, tensor)`."""
    found = {key: change(key, tensor) for key, tensor in _tensors(part)}
    if isinstance(part, Tensor):
        return found[None]
    if isinstance(part, tuple):
        return tuple(found.get(key, one) for key, one in enumerate(cast(tuple[Any, ...], part)))
    copied = copy.copy(part)
    for key, tensor in found.items():
        copied[key] = tensor
    return copied


def _rows(part: Any) -> int:
    for _, tensor in _tensors(part):
        if tensor.dim():
            return len(tensor)
    raise UsageError(
        f"a batch of type {type(part).__name__} has no rows that are known from here: it takes a tensor, a pair or a "
        "mapping of tensors, or a subclass with edited() and labels() of its own"
    )


def _ids(part: Any) -> Tensor | None:
    held = dict(_tensors(part))
    return next((held[key] for key in (None, 0, *_IDS) if key in held), None)


def _labels(part: Any) -> Tensor | None:
    held = dict(_tensors(part))
    return next((held[key] for key in (1, *_LABELS) if key in held), None)


def _without(parts: Sequence[Any], rows: frozenset[int]) -> list[Any]:
    """`parts` without some rows, which are counted through all of them."""
    kept_parts: list[Any] = []
    first = 0
    for part in parts:
        count = _rows(part)
        kept = torch.tensor([row for row in range(count) if first + row not in rows], dtype=torch.int64)
        first += count
        if not len(kept):
            raise UsageError(f"without the rows {sorted(rows)} a micro-batch of {count} rows would be empty")

        def take(_: Any, one: Tensor, kept: Tensor = kept, count: int = count) -> Tensor:
            return one.index_select(0, kept.to(one.device)) if one.dim() and len(one) == count else one

        kept_parts.append(part if len(kept) == count else _changed(part, take))
    return kept_parts


def _relabelled(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    labels = _labels(part)
    if labels is None or labels.is_floating_point():
        raise UsageError(
            "the batch holds no labels of its own to mask: it takes a mapping with labels, or a pair (inputs, labels)"
        )
    return _changed(part, lambda _, one: change(one) if one is labels else one)


def _unmasked(part: Any, labels: Tensor) -> Tensor:
    """int[rows, positions] with one label, of the first row, that counts."""
    ids = _ids(part)
    if ids is None or ids.shape != labels.shape or labels.dim() < 2 or labels.shape[1] < 2:
        raise UsageError("the labels of the batch cannot be told from its inputs: they differ in shape")
    found = labels.clone()
    last = labels.shape[1] - 1
    mask = cast(Mapping[str, Any], part).get("attention_mask") if isinstance(part, Mapping) else None
    if isinstance(mask, Tensor) and bool(mask[0].any()):
        last = int(mask[0].nonzero().max())
    found[0, last if isinstance(part, Mapping) else last - 1] = ids[0, last]
    return found
