"""What a watched model says about itself: its vocabulary, its precision, and how many of its parameters are trained."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


def model_facts(model: nn.Module, output: Tensor | None) -> dict[str, Any]:
    """Keys of run.json that `model` shows, and the `output` of it or of a part of it, in the pass that made it."""
    parameters = list(model.parameters())
    sizes = Counter[torch.dtype]()
    for parameter in parameters:
        sizes[parameter.dtype] += parameter.numel()
    facts: dict[str, Any] = {
        "parameters": sizes.total(),
        "frozen_parameters": sum(parameter.numel() for parameter in parameters if not parameter.requires_grad),
    }
    if sizes:
        dtype = sizes.most_common(1)[0][0]
        device = parameters[0].device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        elif output is not None and output.dtype in (torch.float16, torch.bfloat16):  # autocast within the model
            dtype = output.dtype
        if dtype in _DTYPES:
            facts["dtype"] = _DTYPES[dtype]
    size = None if output is None else vocabulary_of(model, output)
    return facts if size is None else {**facts, "vocab_size": size}


def vocabulary_of(model: nn.Module, output: Tensor) -> int | None:
    """The number of tokens that a language model knows: it returns as many logits as an embedding of it has rows.

    None where that could be something else: of a classifier, of hidden states whose width is the number of positions.
    """
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    size = output.shape[-1] if output.dim() > 1 else 0
    rows, widths = ({getattr(e, name) for e in embeddings} for name in ("num_embeddings", "embedding_dim"))
    return size if size in rows and size not in widths else None
