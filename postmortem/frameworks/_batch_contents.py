"""Reads and edits the rows, ids and labels of a batch without knowing the loop that made it.

A batch has one of the usual forms: a mapping with `labels` beside its inputs, a pair (inputs, labels), or a tensor of
ids. The first dimension of its tensors is the row. Labels of -100 are ignored, as in torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from postmortem.errors import UsageError
from postmortem.frameworks._recording import as_array, join_micro_batches
from postmortem.program import Batch, Edit
from postmortem.record.hashing import batch_hash
from postmortem.record.token_ids import ids_of

IGNORED = -100
_LABELS = ("labels", "label", "targets", "target", "y")
_IDS = ("input_ids", "tokens", "ids", "x")


@dataclass(frozen=True, eq=False)
class UpdateBatch:
    """All that one update consumes: `parts` are its micro-batches, in the form that the loop expects."""

    index: int
    parts: tuple[Any, ...]


def batch_facts(parts: Sequence[Any]) -> dict[str, Any]:
    """The columns of a row in batches/ that can be computed from `parts`: `batch_hash`, `tokens`, `valid_labels`.

    The hash is that of `Recorder.batch`, over the ids of all micro-batches, see `join_micro_batches`.
    """
    try:
        ids = join_micro_batches([as_array(ids_of(part)) for part in parts])
    except UsageError:
        return {}
    whole = as_array(ids)
    row: dict[str, Any] = {"batch_hash": batch_hash(whole)}
    if whole.dtype.kind in "iu":
        row["tokens"] = int(whole.size)
    all_labels = [labels for part in parts if (labels := _labels(part)) is not None]
    if all_labels and not any(labels.is_floating_point() for labels in all_labels):
        row["valid_labels"] = sum(int((labels != IGNORED).sum()) for labels in all_labels)
    return row


def counted_labels(parts: Sequence[Any]) -> list[list[int]]:
    """The labels that count, row by row; the ids themselves if there are no labels. Floating-point targets, as in a
    regression, give empty rows."""
    rows: list[list[int]] = []
    for part in parts:
        labels = _labels(part)
        values = _ids(part) if labels is None else labels
        if values is None or values.is_floating_point():
            rows += [[] for _ in range(_count_rows(part))]
        else:
            rows += [[label for label in row if label != IGNORED] for row in values.reshape(len(values), -1).tolist()]
    return rows


def apply_edit(batch: UpdateBatch, edit: Edit) -> UpdateBatch:
    """A copy of `batch` with `edit` applied.

    To unmask means to restore the last label that follows from the inputs: at the same position in a mapping (its model
    shifts the labels by one), at the position before in a pair.

    Raises:
        UsageError: the batch contains nothing that the edit could change.
    """
    parts = list(batch.parts)
    if edit.without_rows:
        parts = _without_rows(parts, edit.without_rows)
    if edit.masked_tokens:
        masked = torch.tensor(sorted(edit.masked_tokens))
        parts = [
            _with_labels(part, lambda labels: labels.masked_fill(torch.isin(labels, masked.to(labels.device)), IGNORED))
            for part in parts
        ]
    if edit.unmask and not any(counted_labels(parts)):
        parts[0] = _with_labels(parts[0], lambda labels, part=parts[0]: _unmasked_labels(part, labels))
    return UpdateBatch(batch.index if edit.index is None else edit.index, tuple(parts))


class EditableBatches:
    """The part of `postmortem.program.Editable` that is the same for every loop whose batches are `UpdateBatch`."""

    def labels(self, batch: Batch) -> Sequence[Sequence[int]]:
        """The labels that count, row by row."""
        return counted_labels(cast(UpdateBatch, batch).parts)

    def edited(self, batch: Batch, edit: Edit) -> UpdateBatch:
        """A copy of the batch with `edit` applied."""
        return apply_edit(cast(UpdateBatch, batch), edit)


def shallow_copies(parts: Sequence[Any]) -> tuple[Any, ...]:
    """Shallow copies of `parts`: a loop may remove labels from the mapping that it gets."""
    return tuple(copy.copy(part) if isinstance(part, Mapping) else part for part in parts)


def _tensors(part: Any) -> Iterator[tuple[Any, Tensor]]:
    """(key, tensor) of all tensors at the top level of a batch; the key is None if the batch is a tensor."""
    if isinstance(part, Tensor):
        yield None, part
    elif isinstance(part, Mapping):
        yield from ((k, v) for k, v in cast(Mapping[Any, Any], part).items() if isinstance(v, Tensor))
    elif isinstance(part, (list, tuple)):
        yield from ((k, v) for k, v in enumerate(cast(list[Any], part)) if isinstance(v, Tensor))


def _with_tensors(part: Any, change: Callable[[Any, Tensor], Tensor]) -> Any:
    """A copy of a batch with `change(key, tensor)` in place of each tensor."""
    changed = {key: change(key, tensor) for key, tensor in _tensors(part)}
    if isinstance(part, Tensor):
        return changed[None]
    if isinstance(part, tuple):
        return tuple(changed.get(key, value) for key, value in enumerate(cast(tuple[Any, ...], part)))
    copied = copy.copy(part)
    for key, tensor in changed.items():
        copied[key] = tensor
    return copied


def _count_rows(part: Any) -> int:
    for _, tensor in _tensors(part):
        if tensor.dim():
            return len(tensor)
    raise UsageError(
        f"the rows of a batch of type {type(part).__name__} are unknown: it must be a tensor, a pair or a mapping of "
        "tensors; for other batches, override edited() and labels() in a subclass"
    )


def _ids(part: Any) -> Tensor | None:
    tensors = dict(_tensors(part))
    return next((tensors[key] for key in (None, 0, *_IDS) if key in tensors), None)


def _labels(part: Any) -> Tensor | None:
    tensors = dict(_tensors(part))
    return next((tensors[key] for key in (1, *_LABELS) if key in tensors), None)


def _without_rows(parts: Sequence[Any], rows: frozenset[int]) -> list[Any]:
    """`parts` without some rows; the rows are numbered through all parts."""
    remaining: list[Any] = []
    first = 0
    for part in parts:
        count = _count_rows(part)
        kept_rows = torch.tensor([row for row in range(count) if first + row not in rows], dtype=torch.int64)
        first += count
        if not len(kept_rows):
            raise UsageError(f"without the rows {sorted(rows)} a micro-batch of {count} rows would be empty")

        def select_kept(_: Any, tensor: Tensor, kept_rows: Tensor = kept_rows, count: int = count) -> Tensor:
            return (
                tensor.index_select(0, kept_rows.to(tensor.device)) if tensor.dim() and len(tensor) == count else tensor
            )

        remaining.append(part if len(kept_rows) == count else _with_tensors(part, select_kept))
    return remaining


def _with_labels(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    labels = _labels(part)
    if labels is None or labels.is_floating_point():
        raise UsageError(
            "the batch has no labels that could be masked: it must be a mapping with labels, or a pair (inputs, labels)"
        )
    return _with_tensors(part, lambda _, tensor: change(tensor) if tensor is labels else tensor)


def _unmasked_labels(part: Any, labels: Tensor) -> Tensor:
    """int[rows, positions]: `labels` with one counted label, in the first row."""
    ids = _ids(part)
    if ids is None or ids.shape != labels.shape or labels.dim() < 2 or labels.shape[1] < 2:
        raise UsageError("the labels of the batch cannot be restored from its inputs: they differ in shape")
    unmasked = labels.clone()
    last = labels.shape[1] - 1
    mask = cast(Mapping[str, Any], part).get("attention_mask") if isinstance(part, Mapping) else None
    if isinstance(mask, Tensor) and bool(mask[0].any()):
        last = int(mask[0].nonzero().max())
    unmasked[0, last if isinstance(part, Mapping) else last - 1] = ids[0, last]
    return unmasked
