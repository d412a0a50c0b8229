"""Measures gradients, parameters, moments and the optimizer's update, by group, without leaving the device.

Small parameters of a group are joined before they are measured: on a small model, calls cost more than the arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from postmortem.record._layers import WATCHED, group_of
from postmortem.record._shards import Shard, local_of, shard_of

if TYPE_CHECKING:
    from torch.optim import Optimizer

_JOINED = 2**18  # elements of small parameters that are measured together
_Span: TypeAlias = tuple[str, int]
_Step: TypeAlias = "tuple[Tensor | float, Tensor | float, Tensor | float]"


@dataclass(frozen=True)
class Bucket:
    """Parameters on one device, of one dtype, sharded over `shards` ranks, that the optimizer treats alike.

    `settings` is their param_group, None for parameters that no optimizer has. `spans` has, for each parameter, the
    group of its name and the number of elements on this rank.
    """

    parameters: tuple[nn.Parameter, ...]
    spans: tuple[_Span, ...]
    settings: Mapping[str, Any] | None
    shards: int


def make_buckets(model: nn.Module, optimizer: Optimizer) -> list[Bucket]:
    """All parameters of `model`, in buckets of at most 2¹⁸ elements or of one parameter."""
    settings = _settings(optimizer)
    alike: defaultdict[tuple[object, ...], list[tuple[str, nn.Parameter, Shard]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        shard = shard_of(parameter)
        key = (id(settings.get(parameter)), shard.local.device, shard.local.dtype, shard.count)
        alike[key].append((group_of(name), parameter, shard))
    buckets: list[Bucket] = []
    for members in alike.values():
        before, number = 0, 0
        numbers: list[int] = []
        for _, _, shard in members:
            if before and before + shard.local.numel() > _JOINED:
                before, number = 0, number + 1
            before += shard.local.numel()
            numbers.append(number)
        for _, part in groupby(zip(numbers, members, strict=True), key=itemgetter(0)):
            names, parameters, shards = zip(*(member for _, member in part), strict=True)
            spans = tuple((name, shard.local.numel()) for name, shard in zip(names, shards, strict=True))
            buckets.append(Bucket(parameters, spans, settings.get(parameters[0]), shards[0].count))
    return buckets


def _settings(optimizer: Optimizer) -> dict[nn.Parameter, Mapping[str, Any]]:
    """Parameter → the first param_group whose moments work as its own do; weight decay does not matter for them."""
    first: dict[str, Mapping[str, Any]] = {}
    return {
        parameter: first.setdefault(repr([group.get(key) for key in ("betas", "eps", "amsgrad")]), group)
        for group in optimizer.param_groups
        for parameter in cast("list[nn.Parameter]", group["params"])
    }


@dataclass(frozen=True)
class _Norms:
    """Norms of one bucket: 0-d tensors, None if there is no such moment; `elements` counts those with a gradient."""

    parameters: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    nonfinite: Tensor | None = None
    update: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None
    ratio: Tensor | None = None
    elements: int = 0


@torch.no_grad()
def measure_update(
    parts: Sequence[Bucket], optimizer: Optimizer, *, count_nonfinite: bool
) -> dict[str, Tensor | float]:
    """Column → 0-d tensor or number, of the update that `optimizer` has just made.

    Gradients are measured as the optimizer got them; with `count_nonfinite`, their non-finite elements are counted.
    `update_rms` is that of m̂/(√v̂ + ε) for optimizers with Adam's moments, otherwise of the momentum buffer or of the
    gradient: the update divided by the learning rate, without decoupled weight decay. `g2_over_v` is the mean of
    g²/(√v̂ + ε)², as in StableAdamW (arXiv 2304.13013) except for the place of ε. The norms of gradients have the prefix
    `WATCHED`, because the optimizer may get clipped gradients.

    Of DTensors the local shards are measured. Norms are scaled by √shards and counts by shards: then the squares of
    norms, and counts themselves, average over ranks to the true values.
    """
    steps: dict[int, _Step] = {}
    all_norms = [_norms(part, optimizer, steps, count_nonfinite) for part in parts]
    by_column: defaultdict[str, list[Tensor]] = defaultdict(list)
    for norms in all_norms:
        for column, by_group in (("param_norm", norms.parameters), (f"{WATCHED}grad_norm", norms.gradients)):
            for group, norm in by_group.items():
                by_column[f"{column}/{group}"].append(norm)
        for column, values in (
            ("param_norm", norms.parameters.values()),
            (f"{WATCHED}grad_norm", norms.gradients.values()),
            ("adam_m_norm", [norms.first]),
            ("adam_v_norm", [norms.second]),
            ("update_rms", [norms.update]),
            ("g2_over_v", [norms.ratio]),
        ):
            if measured := [value for value in values if value is not None]:
                by_column[column] += measured
    columns: dict[str, Tensor | float] = {column: _norm_of_norms(norms) for column, norms in by_column.items()}
    if "update_rms" in columns:
        columns["update_rms"] = columns["update_rms"] / sum(norms.elements for norms in all_norms) ** 0.5
    if "g2_over_v" in columns:
        elements = sum(norms.elements for norms in all_norms if norms.ratio is not None)
        columns["g2_over_v"] = columns["g2_over_v"] ** 2 / elements
    counts = [norms.nonfinite for norms in all_norms if norms.nonfinite is not None]
    if counts:
        columns["nonfinite_count"] = torch.stack([count.to(counts[0].device) for count in counts]).sum()
    for step, _, _ in steps.values():
        columns["optimizer_step"] = step
    return columns


def _norms(part: Bucket, optimizer: Optimizer, steps: dict[int, _Step], count_nonfinite: bool) -> _Norms:
    scale = part.shards**0.5
    parameters = _by_group(_joined(part.parameters), part.spans, scale)
    if part.settings is None:
        return _Norms(parameters)
    live, spans = part.parameters, part.spans
    if any(p.grad is None for p in live):
        live = tuple(p for p in live if p.grad is not None)
        spans = tuple(span for p, span in zip(part.parameters, spans, strict=True) if p.grad is not None)
        if not live:
            return _Norms(parameters)
    gradient = _joined([_dense(cast(Tensor, p.grad)) for p in live])
    norms = _by_group(gradient, spans, scale)
    elements = sum(p.numel() for p in live)
    nonfinite = (
        torch.count_nonzero(gradient * 0) * part.shards if count_nonfinite else None
    )  # 0 times a finite number is 0
    states = [cast("Mapping[str, Any]", optimizer.state.get(p, {})) for p in live]
    if not all("exp_avg" in state and "exp_avg_sq" in state for state in states):
        buffers = [state.get("momentum_buffer") for state in states]
        moved = gradient if None in buffers else _joined(cast("list[Tensor]", buffers))
        return _Norms(parameters, norms, nonfinite, _norm(moved, scale), elements=elements)
    if id(part.settings) not in steps:
        steps[id(part.settings)] = _step(states[0]["step"], *part.settings["betas"])
    _, first_correction, second_correction = steps[id(part.settings)]
    first, second = (_joined([state[key] for state in states]) for key in ("exp_avg", "exp_avg_sq"))
    largest = _joined([state["max_exp_avg_sq"] for state in states]) if part.settings.get("amsgrad") else second
    denominator = largest.sqrt().add_(part.settings["eps"] * second_correction)  # (√v̂ + ε) times √(1 − β₂ᵗ)
    return _Norms(
        parameters,
        norms,
        nonfinite,
        update=_norm(first / denominator, scale) * (second_correction / first_correction),
        first=_norm(first, scale),
        second=_norm(second, scale),
        ratio=_norm(torch.div(gradient, denominator, out=denominator), scale) * second_correction,
        elements=elements,
    )


def _step(step: Tensor | float, beta1: Tensor | float, beta2: Tensor | float) -> _Step:
    """Step count t, 1 − β₁ᵗ and √(1 − β₂ᵗ): numbers if t is on the host, where most optimizers keep it."""
    if isinstance(step, Tensor):
        step = step.item() if step.is_cpu else step.clone()
    return step, 1 - beta1**step, (1 - beta2**step) ** 0.5


def _by_group(flat: Tensor, spans: tuple[_Span, ...], scale: float) -> dict[str, Tensor]:
    """Group → the norm of its elements in `flat`."""
    norms: defaultdict[str, list[Tensor]] = defaultdict(list)
    for group, start, stop in _runs(spans):
        norms[group].append(_norm(flat[start:stop], scale))
    return {group: _norm_of_norms(parts) for group, parts in norms.items()}


@lru_cache(maxsize=4096)
def _runs(spans: tuple[_Span, ...]) -> list[tuple[str, int, int]]:
    """(group, start, stop) of each run of spans of one group."""
    runs: list[tuple[str, int, int]] = []
    stop = 0
    for group, members in groupby(spans, key=itemgetter(0)):
        start, stop = stop, stop + sum(size for _, size in members)
        runs.append((group, start, stop))
    return runs


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One flat tensor of the local parts of `tensors`; a single tensor is not copied."""
    if hasattr(tensors[0], "placements"):
        tensors = [local_of(tensor) for tensor in tensors]
    flat = [tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _dense(gradient: Tensor) -> Tensor:
    """A sparse gradient (of an embedding) as a dense one; any other as it is."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def _norm(flat: Tensor, scale: float) -> Tensor:
    """L2 norm, accumulated in float32 at least, times `scale`."""
    dtype = None if flat.dtype in (torch.float32, torch.float64) else torch.float32
    norm = torch.linalg.vector_norm(flat, dtype=dtype)
    return norm if scale == 1 else norm * scale


def _norm_of_norms(norms: Sequence[Tensor]) -> Tensor:
    """The norm of the whole from the norms of its parts."""
    if len(norms) == 1:
        return norms[0]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
