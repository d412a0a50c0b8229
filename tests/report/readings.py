"""The worked example's panels and symptoms, by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

from postmortem.diagnosis import PanelReading, Symptom, Trace

METRICS = "metrics/part-000000.parquet, column "
BATCHES = "batches/part-000000.parquet, column "
STEPS = tuple(range(252, 403))


def trace(name: str, level: float, bump: Mapping[int, float] | None = None, wave: float = 0.01) -> Trace:
    """A column with a little deterministic texture around `level`, and `bump` at single steps."""
    ripple = [level * (1 + wave * math.sin(1.7 * s) + wave * math.sin(0.31 * s)) for s in STEPS]
    values = tuple((bump or {}).get(s, r) for s, r in zip(STEPS, ripple, strict=True))
    return Trace(name, STEPS, values, METRICS + name)


def _loss() -> Trace:
    bump = {312: 3.9, 313: 5.84, **{s: 3.40 + 2.44 * math.exp(-(s - 313) / 9) for s in range(314, 403)}}
    return trace("loss", 2.31, bump)


def panels() -> tuple[PanelReading, ...]:
    """All thirteen: four that moved, three calm, six silent."""
    silent = "not logged"
    return (
        PanelReading(
            1, "loss", "Loss", "nats", True, summary="2.31 → 5.84 at step 313, 3.40 at step 360.", traces=(_loss(),)
        ),
        PanelReading(
            2,
            "lr",
            "Learning rate",
            "",
            False,
            summary="smooth cosine, no jump.",
            traces=(trace("lr", 2.94e-4, wave=0.0),),
        ),
        PanelReading(
            3,
            "grad_norm",
            "Gradient norm",
            "L2, pre-clip",
            True,
            summary="47.2 at step 312, baseline 0.6 (79×).",
            log_scale=True,
            traces=(
                trace("grad_norm", 0.6, {312: 47.2, 313: 9.1, 314: 3.2}, 0.08),
                trace("clip_threshold", 1.0, wave=0.0),
            ),
        ),
        PanelReading(
            4,
            "activations",
            "Activations by layer",
            "RMS",
            True,
            summary="act_rms/embed 3.2× its baseline at step 312.",
            traces=(trace("act_rms/embed", 0.9, {312: 2.88}), trace("act_rms/layer-0", 1.3, {312: 1.7})),
        ),
        PanelReading(5, "weights", "Weights and updates", "", summary="within their baselines."),
        PanelReading(
            6, "dead_units", "Dead units", silent=silent, would_tell="saturation from drift: log dead_frac/<layer>."
        ),
        PanelReading(
            7,
            "token_loss",
            "Per-token loss",
            "nats",
            True,
            summary="p99 rose from 5.1 to 12.0 while the median stayed.",
            traces=(trace("token_loss_p50", 1.9), trace("token_loss_p99", 5.1, {312: 12.0})),
        ),
        PanelReading(8, "optimizer_state", "Optimizer state", summary="moments continuous."),
        PanelReading(
            9,
            "numerics",
            "Numerics",
            silent="constant in every row: skipped",
            would_tell="whether half precision overflowed: log loss_scale",
        ),
        PanelReading(
            10, "logits", "Logits", silent=silent, would_tell="whether attention saturated: log max_attention_logit."
        ),
        PanelReading(11, "data", "Data", summary="batch hashes unique."),
        PanelReading(
            12,
            "state_identity",
            "State identity",
            silent=silent,
            would_tell="whether a parameter changed by itself: log param_hash.",
        ),
        PanelReading(
            13, "throughput", "Throughput and ranks", silent=silent, would_tell="whether a node hung: log step_time_s."
        ),
    )


def symptoms() -> tuple[Symptom, ...]:
    """The template's nine fields, as the worked example fills them."""
    return (
        Symptom("onset_step", "step where spike began", 312, 312, METRICS + "loss"),
        Symptom("pre_spike_loss", "pre-spike loss (50-step EMA)", 2.31, 311, METRICS + "loss", "2.31"),
        Symptom("peak_loss", "peak loss", 5.84, 313, METRICS + "loss"),
        Symptom("recovery_loss", "recovery loss (50 steps after peak)", 3.4, 360, METRICS + "loss", "3.40"),
        Symptom(
            "grad_norm", "grad-norm pre-clip at spike", 47.2, 312, METRICS + "grad_norm", "47.2 (baseline rolling: 0.6)"
        ),
        Symptom("lr", "LR at spike", 2.94e-4, 312, METRICS + "lr", "2.94e-4 (cosine, near peak)"),
        Symptom("dtype", "dtype regime", "fp32", None, "run.json, key dtype"),
        Symptom("batch_index", "batch index in the spike step", 312, 312, BATCHES + "batch_index"),
        Symptom(
            "unusual_tokens",
            "corpus tokens in that batch that look unusual",
            "tten",
            312,
            BATCHES + "token_ids",
            "‘tten’ (3 of its ~5 occurrences)",
        ),
    )
