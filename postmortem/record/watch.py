"""Watches a model and its optimizer: norms, moments, activations and the hash of the state, at a cadence.

    watch = rec.watch(model, optimizer)
    …
    watch.logits(logits, labels)  # after the forward pass, unless the model itself returns `logits` for its `labels`
    optimizer.step()              # a sampled update is measured here, by a hook
    rec.log(step, loss=loss)      # and what was measured becomes part of this row

Everything stays on the device: values go to the recorder as tensors, no collective is called, and forward hooks on
layers exist only while the next step is sampled. Temporaries are at most as large as one parameter, or 1 MiB.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from postmortem.errors import UsageError
from postmortem.record._layers import WATCHED, layers_of
from postmortem.record._logits import (
    TokenLosses,
    first_tensor,
    joined,
    kept_losses,
    log_partition,
    logits_and_labels,
    losses_of_logits,
)
from postmortem.record._model_facts import model_facts
from postmortem.record._moments import make_buckets, measure_update
from postmortem.record._token_losses import TokenLossRanking
from postmortem.record.state_hash import hex_of, partials
from postmortem.text import plain

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

_MOST_NAMES = 4_096  # of parameters in one cell
# Logits of one forward pass that are read at a step that is not sampled: a third of a millisecond on an accelerator.
_LOGITS_PER_PASS = 2**26
_MEBIBYTE = 2**20
_RELUS = frozenset({"ReLU", "ReLU6", "ReLUSquaredActivation"})


class Sink(Protocol):
    """What a watch needs from a recorder."""

    @property
    def something_moved_recently(self) -> bool:
        """Whether every step is worth sampling at present."""
        ...

    @property
    def logged(self) -> int | None:
        """Step of the row that was logged last."""
        ...

    def attach(self, values: Mapping[str, Any]) -> None:
        """Add columns to the row that is logged next."""
        ...

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Add what the model says about itself to run.json."""
        ...


class Watch:
    """Samples `model` and `optimizer` until it is closed; a context manager. The module's docstring shows its use.

    The columns are those of docs/run-format.md. Every `norms_every` steps: the norms of gradients, parameters and
    moments by group, `update_rms` and `g2_over_v`. Every `layers_every` steps: the activations and dead units of the
    blocks in the model's largest list; also the logits if the model returns `logits`, or `logits` is called. Every
    `hash_every` steps: the state hash of the parameters, `nonfinite_count`, and the parameters with NaN or Inf. 0
    turns a kind off. While `something_moved_recently`, every kind that is on is sampled at each step. A step of several
    forward passes shows the activations of the last pass.

    Per-token losses are recorded at every step, over all forward passes of the step, where they are known: of a model
    that gets `labels` and returns `logits`, or by a call of `logits`. A bad batch is one step, and the next sample
    would be too late for it. Of more than 2²⁶ logits, every n-th position counts where layers are not due. The first
    step shows the vocabulary, the precision and the frozen parameters, which go into run.json.

    The step is one more than that of the row logged last: call `rec.log` once per update, after `optimizer.step()`.
    Without an optimizer only the forward pass is watched. Modules that torch.compile compiled before do not call these
    hooks, so their activations are not recorded.
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
        """Begin: the next step is the first that may be sampled. With `scaler`, its scale is recorded, too.

        Raises UsageError if a cadence is negative.
        """
        for name, every in (("norms_every", norms_every), ("layers_every", layers_every), ("hash_every", hash_every)):
            if every < 0:
                raise UsageError(f"{name} is {every}; it must be a number of steps, or 0 for never")
        self._sink, self._model, self._optimizer, self._scaler = sink, model, optimizer, scaler
        self._norms_every, self._layers_every, self._hash_every = norms_every, layers_every, hash_every
        self._layers = list(layers_of(model))
        self._largest = max((_MEBIBYTE // 4, *(parameter.numel() for parameter in model.parameters())))
        self._values: dict[str, Any] = {}
        self._dead: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._losses: list[TokenLosses] = []  # of this step's forward passes
        self._attached = dict[str, None]()
        self._hooks: list[RemovableHandle] = []
        self._step = 0
        self._row = sink.logged
        if optimizer is None:
            self._buckets = []
            self._permanent_hooks = [
                model.register_forward_pre_hook(self._guarded(self._before_step)),
                model.register_forward_hook(self._guarded(self._after_forward)),
            ]
        else:
            self._buckets = make_buckets(model, optimizer)
            self._permanent_hooks = [optimizer.register_step_post_hook(self._guarded(self._after_update))]
        self._facts: dict[str, Any] = {}  # of the model, until run.json has them
        self._shows_logits = False  # whether a hook sees them
        # A trainer may call a part of its module instead of the module: Lightning does.
        self._describing = [
            part.register_forward_hook(self._guarded(self._describe), prepend=True, with_kwargs=True)
            for part in (model, *model.children())
        ]
        self._before_step()

    def close(self) -> None:
        """Remove every hook. Closing twice does nothing."""
        self._discard()
        for handle in (*self._describing, *self._permanent_hooks):
            handle.remove()
        self._describing, self._permanent_hooks = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def token_losses(
        self,
        losses: Tensor,
        ids: Tensor | None = None,
        labels: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        """Record quantiles of the per-token losses in nats, and the worst tokens, where the logits are not at hand.

        `losses` is float[samples, positions]; call this between the step's forward pass and its `rec.log`, once per
        micro-batch. `labels`, or `ids` without them, have the same shape and say which tokens the losses belong to.
        `valid` is bool of that shape, true where a loss counts; without it, losses count where labels are not negative.
        """
        if self._permanent_hooks:
            self._guarded(self._see_losses)(losses, ids, labels, valid)

    def logits(self, logits: Tensor, labels: Tensor | None = None) -> None:
        """Record the per-token losses, and if layers are due now the largest logit and the log of the denominator.

        `logits` is float[samples, positions, vocabulary]. `labels` is int[samples, positions], the tokens that they
        predict, negative where a position does not count. Call this after the forward pass, once per micro-batch.
        Models that return an object with `logits`, and get `labels`, need no call.
        """
        if self._describing:
            self._facts["vocab_size"] = logits.shape[-1]
        if self._permanent_hooks:
            self._guarded(self._see_logits)(logits, labels)

    def _see_logits(self, logits: Tensor, labels: Tensor | None) -> None:
        self._begin_pass()
        due = self._due(self._layers_every)
        if due:
            log_z = log_partition(logits, self._largest)
            self._values |= {"max_output_logit": logits.detach().amax(), "log_z": log_z.mean()}
        if labels is not None:
            limit = math.inf if due else _LOGITS_PER_PASS
            self._losses.append(losses_of_logits(logits, labels, self._largest, limit))

    def _see_losses(self, losses: Tensor, ids: Tensor | None, labels: Tensor | None, valid: Tensor | None) -> None:
        self._begin_pass()
        if labels is not None:
            ids = labels
        self._losses.append(kept_losses(losses, ids, valid))

    def _begin_pass(self) -> None:
        """Drop the losses of a step that ended without an update: they belong to no row."""
        if self._sink.logged != self._row:
            self._find_step()
            self._losses.clear()

    def _due(self, every: int) -> bool:
        return every > 0 and (self._step % every == 0 or self._sink.something_moved_recently)

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        return _GuardedHook(self, hook)

    def _find_step(self) -> None:
        """Ask the recorder which step this is."""
        if self._sink.logged != self._row:
            self._row = self._sink.logged
            self._step = 0 if self._row is None else self._row + 1
            self._attached.clear()

    def _before_step(self, *_: object) -> None:
        """Discard values of another step, and add hooks if this step is sampled."""
        self._find_step()
        if self._values or self._hooks or self._losses:
            self._discard()
        if not self._due(self._layers_every):
            return
        for name, block in self._layers:
            self._hooks.append(block.register_forward_hook(self._guarded(partial(self._measure_layer, name))))
            for module in block.modules():
                if type(module).__name__ in _RELUS:
                    self._hooks.append(module.register_forward_hook(self._guarded(partial(self._measure_units, name))))

    def _discard(self) -> None:
        for handle in self._hooks:
            handle.remove()
        self._hooks = []
        self._values.clear()
        self._losses.clear()
        self._dead.clear()

    def _measure_layer(self, name: str, module: nn.Module, _: object, output: object) -> None:
        x = first_tensor(output)
        if module.training and x is not None and x.numel():
            low, high = torch.aminmax(x)
            self._values[f"act_rms/{name}"] = torch.linalg.vector_norm(x, dtype=torch.float32) / x.numel() ** 0.5
            self._values[f"act_max/{name}"] = torch.maximum(-low, high)

    def _measure_units(self, name: str, module: nn.Module, _: object, output: Tensor) -> None:
        """Find dead units; of a convolution's output [samples, units, height, width], units are channels."""
        if module.training:
            rest = (0, 2, 3) if output.dim() == 4 else tuple(range(output.dim() - 1))
            self._dead[name].append(output.amax(rest) == 0)

    def _describe(self, module: nn.Module, _: object, keywords: Mapping[str, object], output: object) -> None:
        """In the first step: what the model says about itself, and which part of it returns logits."""
        if not self._model.training:
            return
        logits, _ = logits_and_labels(module, keywords, output)
        facts = model_facts(self._model, first_tensor(output) if logits is None else logits)
        if self._facts.get("dtype") in ("fp16", "bf16"):  # autocast may cover some parts only
            facts["dtype"] = self._facts["dtype"]
        if self._scaler is not None and self._scaler.is_enabled():
            facts["dtype"] = "fp16"  # nothing else needs a scaler
        self._facts |= facts
        if logits is not None and self._layers_every and not self._shows_logits:
            self._shows_logits = True
            self._measure_output(module, _, keywords, output)
            hook = self._guarded(self._measure_output)
            self._permanent_hooks.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))

    def _measure_output(self, module: nn.Module, _: object, keywords: Mapping[str, object], output: object) -> None:
        logits, labels = logits_and_labels(module, keywords, output)
        if module.training and logits is not None:
            self._see_logits(logits, labels)

    def _after_forward(self, module: nn.Module, *_: object) -> None:
        if module.training:
            self._attach()

    def _after_update(self, *_: object) -> None:
        """Measure the update, and prepare the next step."""
        self._find_step()
        hash_due = self._due(self._hash_every)
        if hash_due or self._due(self._norms_every) or self._values:
            self._values |= measure_update(self._buckets, cast("Optimizer", self._optimizer), count_nonfinite=hash_due)
            if self._scaler is not None and self._scaler.is_enabled():
                self._values["loss_scale"] = self._scaler.scale(torch.ones_like(self._values["param_norm"]))
        if hash_due:
            self._hash_state()
        if self._values or self._losses or self._facts or self._attached:
            self._attach()
        self._step += 1
        self._before_step()

    def _hash_state(self) -> None:
        parts = partials(dict(self._model.named_parameters()))
        for column, sharded in (("param_hash", False), ("param_hash_part", True)):
            words = [part.words for part in parts if bool(part.groups) is sharded]
            if words:
                self._values[WATCHED + column] = torch.stack([word.to(words[0].device) for word in words]).sum(0)
        marks = [part.nan_marks.to(parts[0].nan_marks.device, torch.float32) for part in parts]
        self._values[f"{WATCHED}nan_marks"] = torch.cat(marks)[:_MOST_NAMES]
        self._values[f"{WATCHED}names"] = [name for part in parts for name in part.names][:_MOST_NAMES]

    def _attach(self) -> None:
        """Hand over what was measured; this clears what was handed over for a step that nobody logged."""
        for name, dead in self._dead.items():
            self._values[f"dead_frac/{name}"] = torch.cat(dead).mean(dtype=torch.float32)
        if self._facts:
            self._sink.describe(self._facts)
            self._facts = {}
            for handle in self._describing:
                handle.remove()
            self._describing = []
        if self._losses:
            self._values |= joined(self._losses)
            self._losses.clear()
        self._sink.attach({**self._attached, **self._values})
        self._attached = dict.fromkeys(self._values)


class _GuardedHook:
    """A hook without gradients, whose failure ends the watch and not the training. In a copy or a pickle of a watched
    model, a function that does nothing replaces it: the copy is not watched."""

    def __init__(self, watch: Watch, hook: Callable[..., None]) -> None:
        self._watch, self._hook = watch, hook

    def __call__(self, *arguments: Any) -> None:
        try:
            with torch.no_grad():
                self._hook(*arguments)
        except Exception as error:  # noqa: BLE001 - a failure of the watch must not end the training
            self._watch.close()
            warnings.warn(f"watching ends: {type(error).__name__}: {plain(error)}. The training goes on.", stacklevel=2)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _unpickled_hook, ()


def _unpickled_hook() -> Callable[..., None]:
    return _do_nothing


def _do_nothing(*_: object) -> None:
    pass


def finish_watched_row(row: Mapping[str, Any], ranking: TokenLossRanking | None = None) -> dict[str, Any]:
    """A row of a watched run as it is written, from the values that came from the device. Columns that the loop logged
    itself stay as they are.

    The watch measures gradients after clipping. If the loop logged `grad_norm` from before clipping, the measured norm
    becomes `grad_norm_clipped` and the norms of groups are scaled up to `grad_norm`; it becomes `grad_norm_clipped`
    also where `clip_threshold` was logged, and `grad_norm` otherwise. The words of the state hash become `param_hash`,
    those of shards `param_hash_part` (see `state_hash.join_parts`). The names of parameters with NaN or Inf become the
    list `nonfinite_parameters`. Token losses are ranked, beside those of the rows that `ranking` has seen.
    """
    watched = {name.removeprefix(WATCHED): value for name, value in row.items() if name.startswith(WATCHED)}
    logged = {name: value for name, value in row.items() if not name.startswith(WATCHED)}
    finished: dict[str, Any] = {}
    if "grad_norm" in watched:
        norm, before, scale = watched["grad_norm"], logged.get("grad_norm"), 1.0
        clipped = before is not None or bool(logged.get("clip_threshold"))
        finished["grad_norm_clipped" if clipped else "grad_norm"] = norm
        if isinstance(before, (int, float)) and norm > 0 and math.isfinite(norm) and math.isfinite(before):
            scale = before / norm
        finished |= {name: value * scale for name, value in watched.items() if name.startswith("grad_norm/")}
    finished |= {name: hex_of(watched[name]) for name in ("param_hash", "param_hash_part") if name in watched}
    marks = zip(watched.get("names", []), _as_list(watched.get("nan_marks", [])), strict=True)
    if nonfinite := [name for name, mark in marks if mark != 0]:
        finished["nonfinite_parameters"] = nonfinite
    if "token_losses" in watched:
        ranking = ranking or TokenLossRanking()
        finished |= ranking.columns(watched["token_losses"], watched.get("token_ids"), watched["token_width"])
    return {**finished, **logged}


def _as_list(value: Any) -> list[Any]:
    """`value` as a list: a list of one element comes from the device as that element."""
    return cast("list[Any]", value) if isinstance(value, list) else [value]
