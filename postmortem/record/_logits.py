"""Measures logits and per-token losses on their device, in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

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


def measure_logits(logits: Tensor, labels: Tensor | None, most: int) -> dict[str, Tensor]:
    """Column → tensor: `max_output_logit`, `log_z`, and with labels the quantiles of the token losses.

    At most `most` logits are processed at a time, or those of one position.
    """
    positions, vocabulary = logits.shape[-2:]
    each = max(1, most // vocabulary)
    samples = logits.detach().reshape(-1, positions, vocabulary) if logits.dim() != 3 else logits.detach()
    pieces = [piece for sample in samples.unbind() for piece in sample.split(each)]
    if samples.is_contiguous():
        pieces = list(samples.view(-1, vocabulary).split(each))
    log_z = torch.cat([piece.float().logsumexp(-1) for piece in pieces]).view(-1, positions)
    columns = {
        "max_output_logit": torch.stack([piece.amax() for piece in pieces]).amax(),
        "log_z": log_z.mean(),
    }
    if labels is None:
        return columns
    labels = labels.reshape(-1, positions)
    target = samples.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return columns | measure_token_losses(log_z - target, labels, labels, None)


def measure_token_losses(
    losses: Tensor, ids: Tensor | None, labels: Tensor | None, valid: Tensor | None
) -> dict[str, Tensor]:
    """Column → tensor: nearest-rank quantiles of the `losses` that count, and the worst tokens, worst first.

    A loss of -Infinity among the worst means that it does not count; `watch.finish_watched_row` removes it.
    """
    losses = losses.detach().float()
    if valid is None and labels is not None:
        valid = labels >= 0
    counts = torch.ones_like(losses, dtype=torch.bool) if valid is None else valid.bool()
    flat = losses.masked_fill(~counts, float("-inf")).reshape(-1)
    number = counts.sum()
    ranked = torch.cat([flat.sort().values, flat.new_full((1,), float("nan"))])  # NaN where no loss counts
    columns: dict[str, Tensor] = {}
    for name, share in _QUANTILES.items():
        rank = (number * share).ceil().long().clamp(min=1)
        place = torch.where(number > 0, flat.numel() - number + rank - 1, flat.numel())
        columns[f"token_loss_{name}"] = ranked[place]
    worst = flat.topk(min(_WORST, flat.numel()))
    columns[f"{WATCHED}worst_token_losses"] = worst.values
    if losses.dim() == 2:
        columns[f"{WATCHED}worst_token_rows"] = worst.indices // losses.shape[1]
        columns[f"{WATCHED}worst_token_cols"] = worst.indices % losses.shape[1]
    if ids is not None:
        columns[f"{WATCHED}worst_token_ids"] = ids.reshape(-1)[worst.indices]
    return columns
