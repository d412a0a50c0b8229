"""Names for the parts of a model: the groups of its parameters, and the layers whose outputs are watched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Prefix of columns that `watch.finish_watched_row` turns into the columns that are written.
WATCHED = "_watched/"
TOKEN_LOSSES, TOKEN_IDS, TOKEN_WIDTH = (f"{WATCHED}{name}" for name in ("token_losses", "token_ids", "token_width"))

# What DDP, torch.compile, FSDP1 and activation checkpointing put into the names of parameters.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_EMBEDDING = re.compile(r"emb|wte|wpe|tokens$|positions$", re.IGNORECASE)
_HEAD = re.compile(r"head|classifier|score$|output|norm|ln_f", re.IGNORECASE)


@lru_cache(maxsize=65_536)
def plain_name(name: str) -> str:
    """The name of a parameter or module without wrappers' prefixes: the same with and without DDP or compilation."""
    return _WRAPPERS.sub("", name)


@lru_cache(maxsize=65_536)
def group_of(name: str) -> str:
    """The group whose norms are recorded together: embed, layer<i>, head, or the first part of the name.

    The first number in the dotted path is the layer, so `model.layers.3.mlp.up.weight` belongs to layer3. Norms after
    the last layer count as head.
    """
    parts = [part for part in plain_name(name).split(".") if part not in ("weight", "bias")]
    number = next((part for part in parts if part.isdigit()), None)
    if number is not None:
        return f"layer{number}"
    if any(_EMBEDDING.search(part) for part in parts):
        return "embed"
    if any(_HEAD.search(part) for part in parts):
        return "head"
    return parts[0] if parts else "other"


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(layer<i>, block) for the blocks of the list that has most of the model's parameters; nothing without a list."""
    from torch import nn

    lists = [module for module in model.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    sizes = [sum(parameter.numel() for parameter in blocks.parameters()) for blocks in lists]
    if not any(sizes):
        return
    blocks = lists[sizes.index(max(sizes))]  # of nested lists with the same blocks, the outermost
    for number, block in enumerate(blocks.children()):
        yield f"layer{number}", block
