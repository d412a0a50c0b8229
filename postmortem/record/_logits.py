"""Measures logits and per-token losses on their device, in pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from postmortem.record._layers import WATCHED

_WORST = 8
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


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
    """The losses of one forward pass, float32 of any shape, -Infinity where one does not count, and the tokens they are
    of, int of the same shape."""

    losses: Tensor
    ids: Tensor | None


def kept_losses(losses: Tensor, ids: Tensor | None, labels: Tensor | None, valid: Tensor | None) -> TokenLosses:
    """The losses that count: the `valid` ones, or those whose label is not negative."""
    if valid is None and labels is not None:
        valid = labels >= 0
    losses = losses.detach().float()
    return TokenLosses(losses if valid is None else losses.masked_fill(~valid.bool(), float("-inf")), ids)


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
    labels = labels.reshape(-1, positions)
    every = max(1, math.ceil(logits.numel() / limit))
    pieces = _pieces(logits[..., ::every, :], most)
    targets = labels[:, ::every].reshape(-1).clamp(min=0).split([len(piece) for piece in pieces])
    of_pieces = zip(pieces, targets, strict=True)
    losses = torch.cat([F.cross_entropy(piece.float(), target, reduction="none") for piece, target in of_pieces])
    losses = losses.view(len(labels), -1)
    if every > 1:
        whole = losses.new_full(labels.shape, float("-inf"))
        whole[:, ::every] = losses
        losses = whole
    return kept_losses(losses, labels, labels, None)


def _pieces(logits: Tensor, most: int) -> Sequence[Tensor]:
    """float[n, vocabulary] each, of at most `most` logits or one position, in order and without a copy."""
    positions, vocabulary = logits.shape[-2:]
    logits, each = logits.detach(), max(1, most // vocabulary)
    if logits.is_contiguous():
        return logits.view(-1, vocabulary).split(each)
    samples = logits.reshape(-1, positions, vocabulary) if logits.dim() != 3 else logits
    return [piece for sample in samples.unbind() for piece in sample.split(each)]


def measure_token_losses(parts: Sequence[TokenLosses]) -> dict[str, Tensor]:
    """Column → tensor: nearest-rank quantiles of the losses of a step's forward passes that count, and the worst
    tokens, worst first.

    A loss of -Infinity among the worst means that it does not count; `watch.finish_watched_row` removes it. Rows and
    columns of the worst tokens are those in the step's whole batch, where its micro-batches are equally wide.
    """
    flat = torch.cat([part.losses.reshape(-1) for part in parts])
    number = (flat != float("-inf")).sum()
    ranked = flat.sort()
    ranks = (number * _shares(flat.device)).ceil().long().clamp(min=1)
    values = torch.cat([ranked.values, flat.new_full((1,), float("nan"))])  # the last one is of rank 1 of no losses
    quantiles = values[flat.numel() - number + ranks - 1]
    columns = {f"token_loss_{name}": value for name, value in zip(_QUANTILES, quantiles.unbind(), strict=True)}
    worst = ranked.indices[-_WORST:].flip(0)
    columns[f"{WATCHED}worst_token_losses"] = ranked.values[-_WORST:].flip(0)
    widths = {part.losses.shape[1] if part.losses.dim() == 2 else 0 for part in parts}
    if len(widths) == 1 and (width := widths.pop()):
        columns[f"{WATCHED}worst_token_rows"] = worst // width
        columns[f"{WATCHED}worst_token_cols"] = worst % width
    ids = [part.ids.reshape(-1) for part in parts if part.ids is not None]
    if len(ids) == len(parts):
        columns[f"{WATCHED}worst_token_ids"] = torch.cat(ids)[worst]
    return columns


@lru_cache(maxsize=64)
def _shares(device: torch.device) -> Tensor:
    """The shares of the quantiles on `device`, copied there once."""
    return torch.tensor(list(_QUANTILES.values()), device=device)
