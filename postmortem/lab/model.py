"""A mini-GPT of about 42,000 parameters that measures itself in its forward pass.

Pre-norm blocks, squared-ReLU MLP, learned positions, head not tied to the embedding. The outputs of the embeddings and
the head are scaled up by `multiplier`, so that AdamW moves them faster by that factor at the same learning rate.
Parameters and gradients are views of one buffer each, in group order, so that a norm or a hash is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HALF_MAX = 65504.0


@dataclass(frozen=True)
class Forward:
    """The results of one forward pass; statistics are detached 0-d float32 tensors by column name.

    `token_loss` is [n, length] in nats (0 where the label is ignored), `valid` the same shape, bool.
    """

    loss: Tensor
    penalty: Tensor
    token_loss: Tensor
    valid: Tensor
    statistics: dict[str, Tensor]


class Block(nn.Module):
    """Attention and squared-ReLU MLP, each on a normed copy of the residual stream."""

    def __init__(self, width: int, heads: int, layers: int, weight: Callable[..., nn.Parameter]) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.Parameter(torch.ones(width))
        self.qkv = weight(3 * width, width, std=width**-0.5)
        self.out = weight(width, width, std=(2 * layers * width) ** -0.5)
        self.norm2 = nn.Parameter(torch.ones(width))
        self.up = weight(4 * width, width, std=width**-0.5)
        self.down = weight(width, 4 * width, std=(8 * layers * width) ** -0.5)

    def forward(self, x: Tensor, hidden: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, length, width] → (x, attention scores [n, heads, length, length], MLP units [n, length, 4·width])."""
        n, length, width = x.shape
        normed = F.layer_norm(x, (width,), self.norm1.to(dtype))
        mixed = (normed @ self.qkv.to(dtype).t()).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).contiguous().unbind()
        scores = (query @ key.transpose(-1, -2)) * (width // self.heads) ** -0.5
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        x = x + (weights @ value).transpose(1, 2).reshape(n, length, width) @ self.out.to(dtype).t()
        normed = F.layer_norm(x, (width,), self.norm2.to(dtype))
        inner = F.relu(normed @ self.up.to(dtype).t() * scale).square()
        return x + (inner @ self.down.to(dtype).t()) * scale**-2, scores, inner


class MiniGPT(nn.Module):
    """`forward` takes ids and labels int64[n, length]."""

    def __init__(self, config: Mapping[str, Any], vocab: int, generator: torch.Generator) -> None:
        super().__init__()
        width, layers = int(config["width"]), int(config["layers"])
        self.dropout, self.layers = float(config["dropout"]), layers

        def weight(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * std)

        self.multiplier = float(config["multiplier"])
        self.tokens = weight(vocab, width, std=0.4 / self.multiplier)
        self.positions = weight(int(config["context"]), width, std=0.2 / self.multiplier)
        self.blocks = nn.ModuleList(Block(width, int(config["heads"]), layers, weight) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(width))
        self.head = weight(vocab, width, std=0.5 * width**-0.5 / self.multiplier)

    def forward(
        self,
        ids: Tensor,
        labels: Tensor,
        *,
        branch_scale: float = 1.0,
        half: bool = False,
        generator: torch.Generator | None = None,
    ) -> Forward:
        """With `generator`, dropout on the embeddings. `half` computes everything before the logits in float16.

        `branch_scale` s makes the first MLP compute at s and the last at 1/s, which exact arithmetic cancels.
        """
        dtype = torch.float16 if half else torch.float32
        length = ids.shape[1]
        stats: dict[str, Tensor] = {}
        real = ids != 0
        real_places = real.view(-1).nonzero().view(-1)
        embedded = F.embedding(ids, self.tokens)
        x = (embedded + self.positions[:length]) * self.multiplier
        if generator is not None and self.dropout > 0:
            x = x * (torch.rand(x.shape, generator=generator) >= self.dropout) / (1 - self.dropout)
        x = x.to(dtype)
        self._activation(stats, "embed", x, real_places)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        biggest: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            name = f"layer{number}"
            scale = branch_scale if number == 0 else 1 / branch_scale if number == self.layers - 1 else 1.0
            x, scores, inner = block(x, hidden, scale, dtype)
            self._activation(stats, name, x, real_places, inner.detach())
            self._attention(stats, name, scores.detach(), hidden, real, biggest)
            alive = inner.detach().view(-1, inner.shape[-1])[real_places].amax(0) > 0
            stats[f"dead_frac/{name}"] = 1 - alive.float().mean()
        x = F.layer_norm(x, x.shape[-1:], self.norm.to(dtype))
        self._activation(stats, "final", x, real_places)
        logits = (x @ self.head.to(dtype).t()).float() * self.multiplier
        valid = labels >= 0
        log_z = torch.logsumexp(logits, -1)
        target = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        token_loss = (log_z - target) * valid
        loss = token_loss.sum() / valid.sum()
        stats["max_attention_logit"] = torch.stack(biggest).amax()
        stats["max_output_logit"] = logits.detach().view(-1, logits.shape[-1])[real_places].amax()
        stats["log_z"] = log_z.detach().view(-1)[real_places].mean()
        return Forward(loss, _spread(embedded, real), token_loss.detach(), valid, stats)

    @staticmethod
    def _activation(
        stats: dict[str, Tensor], name: str, x: Tensor, real_places: Tensor, inner: Tensor | None = None
    ) -> None:
        rows = x.detach().view(-1, x.shape[-1])[real_places].float()
        stats[f"act_rms/{name}"] = rows.square().mean().sqrt()
        top = rows.abs().amax()
        stats[f"act_max/{name}"] = top if inner is None else torch.maximum(top, inner.amax().float())

    @staticmethod
    def _attention(
        stats: dict[str, Tensor], name: str, scores: Tensor, hidden: Tensor, real: Tensor, biggest: list[Tensor]
    ) -> None:
        visible = scores.float().masked_fill(hidden, float("-inf"))
        biggest.append(visible.amax())
        entropy = torch.special.entr(visible.softmax(-1)).sum(-1).mean(1)
        stats[f"attention_entropy/{name}"] = (entropy * real).sum() / real.sum()


def _spread(embedded: Tensor, real: Tensor) -> Tensor:
    """Mean over samples of the standard deviation of a sample's token embeddings, a regularizer of the embedding."""
    mask = real.unsqueeze(-1)
    count = mask.sum(1, keepdim=True)
    mean = (embedded * mask).sum(1, keepdim=True) / count
    variance = ((embedded - mean).square() * mask).sum((1, 2)) / (count.view(-1) * embedded.shape[-1])
    return variance.sqrt().mean()


class Arena:
    """One float32 buffer for all parameters and one for their gradients, with a model's tensors as views of them."""

    def __init__(self, model: nn.Module) -> None:
        named = sorted(model.named_parameters(), key=lambda item: _in_group_order(item[0]))
        self.flat = torch.cat([parameter.detach().reshape(-1) for _, parameter in named])
        self.grad = torch.zeros_like(self.flat)
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.groups: dict[str, slice] = {}
        self._spans: dict[str, tuple[slice, torch.Size]] = {}
        start = 0
        for name, parameter in named:
            span = slice(start, start + parameter.numel())
            self._spans[name] = (span, parameter.shape)
            parameter.data = self.flat[span].view(parameter.shape)
            parameter.grad = self.grad[span].view(parameter.shape)
            group = group_of(name)
            self.groups[group] = slice(self.groups[group].start if group in self.groups else start, span.stop)
            start = span.stop

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """`buffer`, laid out like the parameters, cut into named tensors (no copy)."""
        return {name: buffer[span].view(shape) for name, (span, shape) in self._spans.items()}


def group_of(name: str) -> str:
    """The group whose norms are recorded together: embed, layer<n> or head."""
    if name.startswith("blocks."):
        return f"layer{name.split('.')[1]}"
    return "embed" if name in ("tokens", "positions") else "head"


def _in_group_order(name: str) -> tuple[int, str]:
    group = group_of(name)
    return (0 if group == "embed" else 2 if group == "head" else 1, name)
