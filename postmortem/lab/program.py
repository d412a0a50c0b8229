"""The lab's training program, an implementation of `postmortem.program`: one AdamW step at a time, all measured.

Single-threaded and deterministic: the same config gives the same bits with the same arithmetic.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils import deterministic

from postmortem.errors import UsageError
from postmortem.lab.config import interpolate, learning_rate
from postmortem.lab.data import IGNORED, LabBatch, Loader
from postmortem.lab.limits import check_size
from postmortem.lab.model import Arena, Forward, MiniGPT
from postmortem.program import Batch, Config, Edit, Measured, Scalar, State

_WORST = 8
_HELD_OUT = 64


def build(config: Config) -> LabProgram:
    """A fresh lab training of `config` (see `postmortem.lab.config`). Pins torch to one deterministic thread.

    Raises:
        UsageError: the config asks for more than `postmortem.lab.limits` allows, or for something that the lab lacks.
    """
    check_size(config)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    setattr(deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - torch's types do not declare it
    return LabProgram(config)


class LabProgram:
    """Implements `postmortem.program.Program`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._optimizer_config: dict[str, Any] = config["optimizer"]
        self._schedule: dict[str, Any] = config["schedule"]
        self._scaler: dict[str, Any] = config["scaler"]
        if config["precision"] not in ("fp32", "fp16"):
            raise UsageError(f"the lab computes in fp32 or fp16, not in {config['precision']!r}")
        self._half = config["precision"] == "fp16"
        self.loader = Loader(config)
        self._dropout = torch.Generator().manual_seed(int(config["seed"]) + 1)
        initial = torch.Generator().manual_seed(int(config["seed"]))
        self._model = MiniGPT(config["model"], len(self.loader.tokenizer.pieces), initial)
        self._arena = Arena(self._model)
        self._m, self._v = torch.zeros_like(self._arena.flat), torch.zeros_like(self._arena.flat)
        self._adam_step = torch.zeros(())
        self._adam = self._optimizer()
        self._updates = self._position = 0
        self._scale, self._good = float(self._scaler["initial"]) if self._half else 1.0, 0
        self._held_out = self.loader.held_out(_HELD_OUT)

    @property
    def updates(self) -> int:
        """Number of the next step."""
        return self._updates

    @property
    def position(self) -> int:
        """Index of the batch after the last one consumed."""
        return self._position

    @property
    def optimizers(self) -> tuple[torch.optim.AdamW]:
        """AdamW over all parameters; its rate is set in every step."""
        return (self._adam,)

    def batch(self, index: int) -> LabBatch:
        """The batch at an absolute index."""
        return self.loader.batch(index)

    def edited(self, batch: Batch, edit: Edit) -> LabBatch:
        """The batch after `edit`."""
        return self.loader.edited(cast(LabBatch, batch), edit)

    def labels(self, batch: Batch) -> list[list[int]]:
        """The labels that count, sample by sample."""
        return [[label for label in row if label != IGNORED] for row in cast(LabBatch, batch).labels.tolist()]

    def measure(self, batch: Batch) -> Measured:
        """Loss and gradient norm of a batch; parameters, moments and generators stay as they are."""
        batch = cast(LabBatch, batch)
        generator = torch.Generator()
        generator.set_state(self._dropout.get_state())
        forward = self._backward(batch, generator)
        metrics: dict[str, Scalar] = {"loss": float(forward.loss.detach())}
        self._gradients(metrics)
        return Measured(metrics, batch.row)

    def step(self, batch: Batch) -> Measured:
        """One forward, backward and AdamW update on a batch of this program."""
        batch = cast(LabBatch, batch)
        started = time.perf_counter()
        step, rate = self._updates, learning_rate(self._schedule, self._updates)
        forward = self._backward(batch, self._dropout)
        metrics: dict[str, Scalar] = {"loss": float(forward.loss.detach()), "lr": rate}
        norm = self._gradients(metrics)
        self._update(metrics, rate, norm)
        self._updates, self._position = step + 1, batch.index + 1
        if step % int(self._config["eval_every"]) == 0:
            metrics["eval_loss"] = self._evaluate()
        metrics.update(zip(forward.statistics, torch.stack(list(forward.statistics.values())).tolist(), strict=True))
        worst = self._token_losses(metrics, forward, batch)
        elapsed = time.perf_counter() - started
        metrics |= {"step_time_s": elapsed, "tokens_per_s": batch.row["tokens"] / elapsed}
        return Measured(metrics, {**batch.row, **worst})

    def state_dict(self) -> dict[str, Any]:
        """Sections model, optimizer (step, m, v), schedule, loader, rng, scaler; tensors are copies."""
        views = self._arena.views
        return {
            "model": views(self._arena.flat.clone()),
            "optimizer": {"step": int(self._adam_step), "m": views(self._m.clone()), "v": views(self._v.clone())},
            "schedule": {"step": self._updates},
            "loader": {"next": self._position},
            "rng": {"dropout": self._dropout.get_state()},
            "scaler": {"scale": self._scale, "good": self._good},
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the sections, and the keys in them, that `state` has."""
        optimizer: Mapping[str, Any] = state.get("optimizer", {})
        for target, saved in (
            (self._arena.flat, state.get("model", {})),
            (self._m, optimizer.get("m", {})),
            (self._v, optimizer.get("v", {})),
        ):
            views = self._arena.views(target)
            for name, value in saved.items():
                views[name].copy_(value)
        if "step" in optimizer:
            self._adam_step.fill_(int(optimizer["step"]))
        self._updates = int(state.get("schedule", {}).get("step", self._updates))
        self._position = int(state.get("loader", {}).get("next", self._position))
        if "rng" in state:
            self._dropout.set_state(state["rng"]["dropout"])
        scaler: Mapping[str, Any] = state.get("scaler", {})
        self._scale, self._good = float(scaler.get("scale", self._scale)), int(scaler.get("good", self._good))

    def _optimizer(self) -> torch.optim.AdamW:
        decay = float(self._optimizer_config["weight_decay"])
        parameters = self._arena.parameters
        adam = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
                {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
            ],
            betas=tuple(self._optimizer_config["betas"]),
            eps=float(self._optimizer_config["eps"]),
            fused=True,
        )
        m, v = self._arena.views(self._m), self._arena.views(self._v)
        for name, parameter in zip(self._arena.names, parameters, strict=True):
            adam.state[parameter] = {"step": torch.zeros(()), "exp_avg": m[name], "exp_avg_sq": v[name]}
        return adam

    def _backward(self, batch: LabBatch, generator: torch.Generator) -> Forward:
        """Forward and backward; the unscaled gradient is left in the arena."""
        forward = self._forward(batch, generator)
        self._arena.grad.zero_()
        total = forward.loss + float(self._optimizer_config["spread_penalty"]) * forward.penalty
        (total * self._scale).backward()
        if self._scale != 1.0:
            self._arena.grad.mul_(1 / self._scale)
        return forward

    def _forward(self, batch: LabBatch, generator: torch.Generator | None) -> Forward:
        scale = interpolate(self._config["model"]["branch_scale"], self._updates)
        ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
        return self._model(ids, labels, branch_scale=scale, half=self._half, generator=generator)

    def _evaluate(self) -> float:
        with torch.no_grad():
            return float(self._forward(self._held_out, None).loss)

    def _gradients(self, metrics: dict[str, Scalar]) -> float:
        """Record the norms of the unscaled gradient and return the total; clip it in place as clip_grad_norm_ does."""
        grad = self._arena.grad
        norms = {f"grad_norm/{name}": _norm(grad[span]) for name, span in self._arena.groups.items()}
        norm = math.sqrt(sum(value * value for value in norms.values()))
        threshold = float(self._optimizer_config["clip"])
        shrink = threshold / (norm + 1e-6)
        if not shrink >= 1.0:
            grad.mul_(shrink)
        metrics |= {"grad_norm": norm, **norms, "clip_threshold": threshold}
        metrics["grad_norm_clipped"] = norm if shrink >= 1.0 else norm * shrink
        finite = math.isfinite(norm)
        metrics["nonfinite_count"] = 0 if finite else int((~grad.isfinite()).sum())
        return norm

    def _update(self, metrics: dict[str, Scalar], rate: float, norm: float) -> None:
        flat, finite = self._arena.flat, math.isfinite(norm)
        skip = not finite and (self._half or bool(self._optimizer_config["skip_nonfinite"]))
        before = flat.clone()
        if not skip:
            for group in self._adam.param_groups:
                group["lr"] = rate
            for entry in self._adam.state.values():
                entry["step"].copy_(self._adam_step)
            self._adam.step()
            self._adam_step += 1
        metrics["skipped"] = int(skip)
        if self._half:
            metrics["loss_scale"] = self._scale
            self._adjust_scale(finite)
        metrics["update_rms"] = _norm(flat - before) / rate / math.sqrt(flat.numel())
        norms = {f"param_norm/{name}": _norm(flat[span]) for name, span in self._arena.groups.items()}
        metrics |= {"param_norm": math.sqrt(sum(value * value for value in norms.values())), **norms}
        metrics["adam_m_norm"], metrics["adam_v_norm"] = _norm(self._m), _norm(self._v)
        metrics["optimizer_step"] = int(self._adam_step)
        metrics["g2_over_v"] = self._g2_over_v()
        metrics["param_hash"] = xxhash.xxh3_128_hexdigest(flat.numpy().data)

    def _adjust_scale(self, finite: bool) -> None:
        self._good = self._good + 1 if finite else 0
        if not finite:
            self._scale = max(float(self._scaler["minimum"]), self._scale * float(self._scaler["backoff"]))
        elif self._good == int(self._scaler["growth_interval"]):
            self._scale, self._good = self._scale * float(self._scaler["growth"]), 0

    def _g2_over_v(self) -> float:
        """Mean of g² over the bias-corrected v, as in StableAdamW (arXiv 2304.13013), on the gradient that Adam saw."""
        beta, eps = float(self._optimizer_config["betas"][1]), float(self._optimizer_config["eps"])
        correction = 1 - beta ** max(1, int(self._adam_step))
        grad = self._arena.grad
        return float((grad * grad * correction / self._v.clamp(min=eps * eps)).mean())

    def _token_losses(self, metrics: dict[str, Scalar], forward: Forward, batch: LabBatch) -> dict[str, list[Any]]:
        losses, valid = forward.token_loss.numpy(), forward.valid.numpy()
        rows, cols = np.nonzero(valid)
        values = losses[rows, cols].astype(np.float64)
        ascending = np.argsort(values, kind="stable")
        if values.size:
            ranked = values[ascending]
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
                metrics[f"token_loss_{name}"] = float(ranked[math.ceil(share * ranked.size) - 1])
        worst = ascending[::-1][:_WORST]
        return {
            "worst_token_ids": batch.labels[rows[worst], cols[worst]].tolist(),
            "worst_token_losses": values[worst].tolist(),
            "worst_token_rows": rows[worst].tolist(),
            "worst_token_cols": cols[worst].tolist(),
        }


def _norm(values: Tensor) -> float:
    """L2 norm; accumulated in float64 where the square of a float32 value would overflow."""
    norm = float(torch.linalg.vector_norm(values))
    return norm if math.isfinite(norm) else float(torch.linalg.vector_norm(values, dtype=torch.float64))
