"""Watching a model and its optimizer: norms, moments, activations and the state's hash, at a cadence.

    watch = rec.watch(model, optimizer)
    …
    optimizer.step()          # a sampled update is measured here, by a hook
    rec.log(step, loss=loss)  # and what was measured becomes part of this row

Everything stays on the device: values go to the recorder as tensors, no collective is called, and forward hooks stand
only while the step to come is sampled. Temporaries are as large as one parameter at most, or 1 MiB.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from postmortem.errors import UsageError
from postmortem.record._layers import UNSETTLED, layers_of
from postmortem.record._logits import first_tensor, logits_and_labels, logits_measured, quantiles
from postmortem.record._moments import buckets, measured
from postmortem.record.state_hash import hex_of, partials
from postmortem.text import plain

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

_MOST_NAMES = 4_096  # of parameters in one cell
_RELUS = frozenset({"ReLU", "ReLU6", "ReLUSquaredActivation"})


class Sink(Protocol):
    """What a watch asks of a recorder."""

    @property
    def moving(self) -> bool:
        """Whether every step is worth sampling just now."""
        ...

    @property
    def logged(self) -> int | None:
        """Step of the row that was logged last."""
        ...

    def attach(self, values: Mapping[str, Any]) -> None:
        """Columns for the row that is logged next."""
        ...


class Watch:
    """Samples `model` and `optimizer` until it is closed; a context manager. See the module's text for its use.

    Columns are those of docs/run-format.md. Every `norms_every` steps: the norms of gradients, parameters and moments
    by group, `update_rms` and `g2_over_v`. Every `layers_every` steps: the activations and dead units of the blocks in
    the model's largest list, and logits and per-token losses where the model returns `logits`. Every `hash_every`
    steps: the state hash of the parameters, `nonfinite_count`, and the parameters that hold NaN or Inf. 0 turns a kind
    off; while the recorder is `moving`, every kind that is on is sampled at each step. A step of several forward
    passes shows the last one's activations.

    The step is one more than that of the row logged last: call `rec.log` once per update, after `optimizer.step()`.
    Without an optimizer only the forward pass is watched. Modules that torch.compile has compiled call no hooks that
    come later, so that their activations stay unseen.
    """

    def __init__(
        self,
        sink: Sink,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        norms_every: int = 10,
        layers_every: int = 50,
        hash_every: int = 100,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Begin; the step to come is the first that may be sampled. With `scaler`, its scale is recorded, too.

        Raises UsageError where a cadence is negative.
        """
        for name, every in (("norms_every", norms_every), ("layers_every", layers_every), ("hash_every", hash_every)):
            if every < 0:
                raise UsageError(f"{name} is {every}; it must be a number of steps, or 0 for never")
        self._sink, self._model, self._optimizer, self._scaler = sink, model, optimizer, scaler
        self._norms_every, self._layers_every, self._hash_every = norms_every, layers_every, hash_every
        self._layers = list(layers_of(model))
        self._largest = max((parameter.numel() for parameter in model.parameters()), default=1)
        self._values: dict[str, Any] = {}
        self._dead: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._attached = dict[str, None]()
        self._hooks: list[RemovableHandle] = []
        self._step = 0
        self._row = sink.logged
        if optimizer is None:
            self._buckets = []
            self._always = [
                model.register_forward_pre_hook(self._guarded(self._begin)),
                model.register_forward_hook(self._guarded(self._end_forward)),
            ]
        else:
            self._buckets = buckets(model, optimizer)
            self._always = [optimizer.register_step_post_hook(self._guarded(self._updated))]
        self._begin()

    def close(self) -> None:
        """Take every hook away. Closing twice does nothing."""
        self._forget()
        for handle in self._always:
            handle.remove()
        self._always = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def token_losses(
        self,
        losses: Tensor,
        ids: Tensor | None = None,
        labels: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        """Quantiles of the batch's per-token losses in nats, and its worst tokens, where this step's norms are sampled.

        `losses` is float[samples, positions]; call this between the step's forward pass and its `rec.log`. `labels`,
        or else `ids`, of the same shape, say which tokens the losses belong to. `valid`, bool of that shape, is true
        where a loss counts; where it is not given, labels that are not negative do.
        """
        if self._due(self._norms_every):
            self._values |= quantiles(losses, labels if labels is not None else ids, labels, valid)

    def logits(self, logits: Tensor, labels: Tensor | None = None) -> None:
        """Largest logit, log of the softmax denominator and per-token losses, where this step's layers are sampled.

        `logits` is float[samples, positions, vocabulary], `labels` int[samples, positions] the tokens that they
        predict, negative where none does. Models that return an object with `logits` need no call.
        """
        if self._due(self._layers_every):
            self._values |= logits_measured(logits, labels, self._largest)

    def _due(self, every: int) -> bool:
        return every > 0 and (self._step % every == 0 or self._sink.moving)

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        return _Guarded(self, hook)

    def _synchronise(self) -> None:
        """Learn from the recorder which step this is."""
        if self._sink.logged != self._row:
            self._row = self._sink.logged
            self._step = 0 if self._row is None else self._row + 1
            self._attached.clear()

    def _begin(self, *_: object) -> None:
        """Before a step: forget what belongs to another, and put hooks where this one is sampled."""
        self._synchronise()
        if self._values or self._hooks:
            self._forget()
        if not self._due(self._layers_every):
            return
        for name, block in self._layers:
            self._hooks.append(block.register_forward_hook(self._guarded(partial(self._layer, name))))
            for module in block.modules():
                if type(module).__name__ in _RELUS:
                    self._hooks.append(module.register_forward_hook(self._guarded(partial(self._units, name))))
        self._hooks.append(self._model.register_forward_hook(self._guarded(self._output), with_kwargs=True))

    def _forget(self) -> None:
        for handle in self._hooks:
            handle.remove()
        self._hooks = []
        self._values.clear()
        self._dead.clear()

    def _layer(self, name: str, module: nn.Module, _: object, output: object) -> None:
        x = first_tensor(output)
        if module.training and x is not None and x.numel():
            low, high = torch.aminmax(x)
            self._values[f"act_rms/{name}"] = torch.linalg.vector_norm(x, dtype=torch.float32) / x.numel() ** 0.5
            self._values[f"act_max/{name}"] = torch.maximum(-low, high)

    def _units(self, name: str, module: nn.Module, _: object, output: Tensor) -> None:
        """Units are channels where the output is that of a convolution, [samples, units, height, width]."""
        if module.training:
            rest = (0, 2, 3) if output.dim() == 4 else tuple(range(output.dim() - 1))
            self._dead[name].append(output.amax(rest) == 0)

    def _output(self, module: nn.Module, _: object, keywords: Mapping[str, object], output: object) -> None:
        logits, labels = logits_and_labels(module, keywords, output)
        if module.training and logits is not None:
            self._values |= logits_measured(logits, labels, self._largest)

    def _end_forward(self, module: nn.Module, *_: object) -> None:
        if module.training:
            self._attach()

    def _updated(self, *_: object) -> None:
        """After an update: measure it, and get ready for the next."""
        self._synchronise()
        hashed = self._due(self._hash_every)
        if hashed or self._due(self._norms_every) or self._values:
            self._values |= measured(self._buckets, cast("Optimizer", self._optimizer), count=hashed)
            if self._scaler is not None and self._scaler.is_enabled():
                self._values["loss_scale"] = self._scaler.scale(torch.ones_like(self._values["param_norm"]))
        if hashed:
            self._hash()
        if self._values or self._attached:
            self._attach()
        self._step += 1
        self._begin()

    def _hash(self) -> None:
        parts = partials(dict(self._model.named_parameters()))
        for column, sharded in (("param_hash", False), ("param_hash_part", True)):
            words = [part.words for part in parts if bool(part.groups) is sharded]
            if words:
                self._values[UNSETTLED + column] = torch.stack([word.to(words[0].device) for word in words]).sum(0)
        blemishes = [part.blemishes.to(parts[0].blemishes.device, torch.float32) for part in parts]
        self._values[f"{UNSETTLED}blemishes"] = torch.cat(blemishes)[:_MOST_NAMES]
        self._values[f"{UNSETTLED}names"] = [name for part in parts for name in part.names][:_MOST_NAMES]

    def _attach(self) -> None:
        """Hand over what was measured; what was handed over for a step that nobody logged is taken back."""
        for name, dead in self._dead.items():
            self._values[f"dead_frac/{name}"] = torch.cat(dead).mean(dtype=torch.float32)
        self._sink.attach({**self._attached, **self._values})
        self._attached = dict.fromkeys(self._values)


class _Guarded:
    """A hook without gradients, whose failure ends the watch and not the training. What a copy or a pickle of a watched
    model holds in its place does nothing: the copy is not watched."""

    def __init__(self, watch: Watch, hook: Callable[..., None]) -> None:
        self._watch, self._hook = watch, hook

    def __call__(self, *arguments: Any) -> None:
        try:
            with torch.no_grad():
                self._hook(*arguments)
        except Exception as error:
            self._watch.close()
            warnings.warn(f"watching ends: {type(error).__name__}: {plain(error)}. The training goes on.", stacklevel=2)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(*_: object) -> None:
    pass


def settle(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a watched run as it is written, from the values that came from the device. What the loop logged itself
    stays as it is.

    The watch sees gradients after clipping. Where the row has `grad_norm` from before, the group norms are scaled up to
    it and what was seen becomes `grad_norm_clipped`, as it does beside a `clip_threshold`; else it is `grad_norm`. The
    words of the state's hash become `param_hash`, those of shards `param_hash_part` (see `state_hash.joined`), and the
    names of parameters that hold NaN or Inf the list `nonfinite_parameters`. Losses that do not count leave the worst
    tokens.
    """
    seen = {name.removeprefix(UNSETTLED): value for name, value in row.items() if name.startswith(UNSETTLED)}
    logged = {name: value for name, value in row.items() if not name.startswith(UNSETTLED)}
    found: dict[str, Any] = {}
    if "grad_norm" in seen:
        norm, before, scale = seen["grad_norm"], logged.get("grad_norm"), 1.0
        clipped = before is not None or bool(logged.get("clip_threshold"))
        found["grad_norm_clipped" if clipped else "grad_norm"] = norm
        if isinstance(before, (int, float)) and norm > 0 and math.isfinite(norm) and math.isfinite(before):
            scale = before / norm
        found |= {name: value * scale for name, value in seen.items() if name.startswith("grad_norm/")}
    found |= {name: hex_of(seen[name]) for name in ("param_hash", "param_hash_part") if name in seen}
    blemishes = zip(seen.get("names", []), _listed(seen.get("blemishes", [])), strict=True)
    if nonfinite := [name for name, blemish in blemishes if blemish != 0]:
        found["nonfinite_parameters"] = nonfinite
    counting = sum(loss != -math.inf for loss in _listed(seen.get("worst_token_losses", [])))
    found |= {name: _listed(value)[:counting] for name, value in seen.items() if name.startswith("worst_token_")}
    return {**found, **logged}


def _listed(value: Any) -> list[Any]:
    """A list of one element comes from the device as that element."""
    return cast("list[Any]", value) if isinstance(value, list) else [value]
