"""Measures logits and per-token losses on their device, in pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from postmortem.record._layers import TOKEN_IDS, TOKEN_LOSSES, TOKEN_WIDTH


def first_tensor(output: object) -> Tensor | None:
    """A module's output, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(cast(Mapping[object, object], output).values())
    if isinstance(output, (tuple, list)):
        return next((item for item in cast(list[object], output) if isinstance(item, Tensor)), None)
    return None


def logits_and_labels(
    module: nn.Module, keywords: Mapping[str, object], output: object
) -> tuple[Tensor | None, Tensor | None]:
    """The `logits` in a model's output, and the labels that they predict, which are a keyword of its forward.

    Models whose class name says that they are causal predict the label at the next position, as in Hugging Face.
    """
    logits = cast(Any, output).get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    labels = keywords.get("labels")
    if not isinstance(logits, Tensor):
        return None, None
    if not isinstance(labels, Tensor) or logits.shape[:-1] != labels.shape:
        return logits, None
    if type(module).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return logits[..., :-1, :], labels[..., 1:]
    return logits, labels


class TokenLosses(NamedTuple):
    """The losses of one forward pass, float32[n], -Infinity where one does not count; the tokens that they are of,
    int[n], negative where one does not count; and the number of positions in a sample, 0 where it is not known."""

    losses: Tensor
    ids: Tensor | None
    width: int


def kept_losses(losses: Tensor, ids: Tensor | None, valid: Tensor | None) -> TokenLosses:
    """A copy of the losses, of the `valid` ones only. The loop may use its tensors again."""
    own = losses.detach().reshape(-1).to(torch.float32, copy=True)
    if valid is not None:
        own.masked_fill_(~valid.bool().reshape(-1), float("-inf"))
    return TokenLosses(own, None if ids is None else ids.flatten().clone(), losses.shape[1] if losses.dim() == 2 else 0)


def log_partition(logits: Tensor, most: int) -> Tensor:
    """The log of the softmax denominator, float32[n], of float[…, positions, vocabulary].

    At most `most` logits are processed at a time, or those of one position.
    """
    return torch.cat([piece.float().logsumexp(-1) for piece in _pieces(logits, most)])


def losses_of_logits(logits: Tensor, labels: Tensor, most: int, limit: float = math.inf) -> TokenLosses:
    """The loss of each label, which is int[…, positions] and negative where it does not count; `most` as above.

    Of more than `limit` logits, every n-th position counts, so that no more are read.
    """
    positions = logits.shape[-2]
    ids = labels.reshape(-1).clone()
    every = max(1, math.ceil(logits.numel() / limit))
    pieces, targets = _pieces(logits if every == 1 else logits[..., ::every, :], most), ids.clamp(min=0)
    if every > 1:
        targets = targets.view(-1, positions)[:, ::every].reshape(-1)
    of_pieces = zip(pieces, targets.split([len(piece) for piece in pieces]), strict=True)
    parts = [F.cross_entropy(piece.float(), target, reduction="none") for piece, target in of_pieces]
    losses = parts[0] if len(parts) == 1 else torch.cat(parts)
    if every > 1:
        whole = losses.new_full((len(ids) // positions, positions), float("-inf"))
        whole[:, ::every] = losses.view(len(whole), -1)
        losses = whole.view(-1)
    return TokenLosses(losses, ids, positions)


def _pieces(logits: Tensor, most: int) -> Sequence[Tensor]:
    """float[n, vocabulary] each, of at most `most` logits or one position, in order and without a larger copy."""
    positions, vocabulary = logits.shape[-2:]
    logits, each = logits.detach(), max(1, most // vocabulary)
    if logits.numel() <= most:
        return (logits.reshape(-1, vocabulary),)
    if logits.is_contiguous():
        return logits.view(-1, vocabulary).split(each)
    samples = logits.reshape(-1, positions, vocabulary) if logits.dim() != 3 else logits
    return [piece for sample in samples.unbind() for piece in sample.split(each)]


def joined(parts: Sequence[TokenLosses]) -> dict[str, Tensor | int]:
    """The losses of all forward passes of a step as the columns that `finish_watched_row` ranks."""
    columns: dict[str, Tensor | int] = {TOKEN_LOSSES: _joined([part.losses for part in parts])}
    ids = [part.ids for part in parts if part.ids is not None]
    if len(ids) == len(parts):
        columns[TOKEN_IDS] = _joined(ids)
    widths = {part.width for part in parts}
    columns[TOKEN_WIDTH] = widths.pop() if len(widths) == 1 else 0
    return columns


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))
