"""The canonical columns: their names, units, and the names that other tools give them.

A name that ends in `/<…>` is a family: one column per layer, group or rank. Aliases are in the form that
`naming.normal` returns, in order of preference: where a log has two of them, the first wins. Prefixes such as `train/`
need no alias of their own (`naming.bare`), losses are also known by their words (`loss_names`), and `pattern` covers
names with a part that the log chose, such as that of an optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Column:
    """One canonical column. `label` columns contain text or lists, the others numbers."""

    name: str
    unit: str
    meaning: str
    aliases: tuple[str, ...] = ()
    pattern: str = ""
    label: bool = False

    @property
    def family(self) -> str | None:
        """`grad_norm/` of `grad_norm/<group>`, or None for a single column."""
        return self.name.split("<")[0] if "<" in self.name else None


_ALL = (
    Column(
        "loss",
        "nats per token",
        "train loss of the row's batch, measured before the update",
        (
            "train_loss", "training_loss", "train/loss", "training/loss", "loss/train", "losses/train",
            "train_loss_step", "train/loss_step", "train_loss/step", "loss_step", "actor/loss", "train/total_loss",
            "total_loss", "train/train_loss", "metrics/loss", "metrics/train/loss", "loss_metrics/global_avg_loss",
            "loss_metrics/global_avg", "trainloss", "tloss", "cost",
        ),
    ),
    Column(
        "eval_loss",
        "nats per token",
        "loss on held-out data",
        (
            "val_loss", "validation_loss", "valid_loss", "dev_loss", "eval/loss", "val/loss", "validation/loss",
            "valid/loss", "dev/loss", "loss/val", "loss/eval", "loss/valid", "loss/validation", "losses/val",
            "eval/lm_loss", "validation/lm_loss", "lm_loss_validation", "lm_loss/validation", "val_loss_epoch",
            "validation/ctc_loss", "eval/eval_loss", "metrics/eval/loss", "metrics/eval_loss", "evalloss", "valloss",
            "test_loss", "test/loss",
        ),
    ),
    Column(
        "lr",
        "1",
        "learning rate of the update",
        (
            "learning_rate", "train/learning_rate", "train/lr", "training/lr", "optim/lr", "optim/learning_rate",
            "optimizer/lr", "lr/group0", "lr_group0", "lr_adamw", "lr_adam", "lr_sgd", "lr_adamw/pg1", "lr_adam/pg1",
            "lr_sgd/pg1", "learning_rate/group_0", "optim/learning_rate_group0", "actor/lr", "metrics/lr",
            "metrics/learning_rate", "lr/0", "learningrate", "current_lr", "lr/unet", "lr/pg0", "x/lr0",
        ),
        # of one optimizer or group: lr-Lion, lr-AdamW/pg1, lr-Adam-1, lr/group0, x/lr0, LR (group 0)
        r"(?:.*/)?(?:lr|learning_rate)(?:_(?!(?:scale|mult|multiplier|factor|decay|momentum|ratio|schedule|scheduler|"
        r"warmup|min|max|init|initial|base|end|final|range|patience|steps?|type|policy)(?![a-z]))[a-z0-9]+)?"
        r"(?:[/_]?\(?(?:group|pg|param_group)?_?\d+\)?)?",
    ),
    Column(
        "grad_norm",
        "L2 norm",
        "norm of the gradient of the step, before clipping, unscaled",
        (
            "gradient_norm", "grad_norm_preclip", "grad_norm_pre_clip", "global_grad_norm", "total_grad_norm", "gnorm",
            "train/grad_norm", "train/gradient_norm", "training/grad_norm", "train/global_grad_norm", "train/gnorm",
            "optim/grad_norm", "optim/total_grad_norm", "optim/global_grad_norm", "grad/norm", "grads/norm",
            "gradients/norm", "grad_norm/total", "grad_norm/global", "grad_norm/all", "grad_2.0_norm_total",
            "grad_2_norm_total", "actor/grad_norm", "metrics/grad_norm", "l2_norm/grad/global", "gradnorm", "norm",
            "grad/norm/total", "total_norm", "global_norm",
        ),
        r"(?:global_|total_|l2_)?(?:grads?|gradients?)[/_](?:global_|total_|l2_)?norm(?:[/_](?:total|global|all))?",
    ),
    Column("grad_norm_clipped", "L2 norm", "norm of the gradient after clipping",
           ("clipped_grad_norm", "grad_norm_postclip", "grad_norm_post_clip", "grad_norm_after_clip",
            "train/grad_norm_clipped", "optim/clipped_grad_norm")),
    Column("clip_threshold", "L2 norm", "the norm to which gradients are clipped",
           ("grad_clip", "max_grad_norm", "gradient_clip_val", "clip_grad", "train/clip_threshold")),
    Column("grad_norm/<group>", "L2 norm", "norm of the gradient of one layer or of the embedding, before clipping"),
    Column("act_rms/<layer>", "1", "root mean square of one layer's output"),
    Column("act_max/<layer>", "1", "largest magnitude in one layer's output"),
    Column("param_norm", "L2 norm", "norm of all parameters after the update",
           ("params_norm", "parameter_norm", "weight_norm", "train/param_norm", "train/params_norm", "optim/param_norm",
            "params_norm/all", "params_l2_norm", "metrics/param_norm", "params/norm/total", "l2_norm/param/global")),
    Column("param_norm/<group>", "L2 norm", "norm of one group of parameters after the update"),
    Column("update_rms", "1", "root mean square of the update, divided by the learning rate",
           ("train/update_rms", "optim/update_rms")),
    Column("dead_frac/<layer>", "fraction", "share of one layer's units that gave zero on the whole batch"),
    Column("token_loss_p50", "nats", "median of the batch's per-token losses"),
    Column("token_loss_p90", "nats", "90th percentile of the batch's per-token losses"),
    Column("token_loss_p99", "nats", "99th percentile of the batch's per-token losses"),
    Column("token_loss_max", "nats", "largest of the batch's per-token losses", ("max_token_loss",)),
    Column("adam_m_norm", "L2 norm", "norm of Adam's first moments after the update",
           ("exp_avg_norm", "optim/exp_avg_norm", "optim/adam_m_norm")),
    Column("adam_v_norm", "L2 norm", "norm of Adam's second moments after the update",
           ("exp_avg_sq_norm", "optim/exp_avg_sq_norm", "optim/adam_v_norm")),
    Column("optimizer_step", "updates", "the optimizer's own step count after the update", ("optim/step", "adam_step")),
    Column("g2_over_v", "1", "mean of g²/v over the parameters"),
    Column("loss_scale", "1", "factor of the loss in half precision",
           ("grad_scale", "train/loss_scale", "loss_scaling", "grad_scaler/scale", "scaler/scale", "amp/loss_scale",
            "train/grad_scale", "scale")),
    Column("skipped", "0 or 1, or a count", "whether the update was skipped",
           ("skipped_iterations", "number_of_skipped_iterations", "skipped_steps", "overflow", "train/skipped")),
    Column("nonfinite_count", "elements", "non-finite elements in the gradients",
           ("nan_iterations", "number_of_nan_iterations", "num_nonfinite", "nan_count", "nonfinite_grads",
            "found_inf", "train/nonfinite_count")),
    Column("max_attention_logit", "1", "largest attention logit before the softmax",
           ("max_attn_logit", "attn_logit_max", "max_attention_logits", "train/max_attention_logit")),
    Column("attention_entropy/<layer>", "nats", "mean entropy of one layer's attention rows"),
    Column("max_output_logit", "1", "largest output logit", ("max_logit", "logits_max", "max_logits")),
    Column("log_z", "nats", "mean log of the softmax denominator", ("logz", "train/log_z", "log_partition")),
    Column("batch_index", "batches", "absolute index of the batch in the data order",
           ("batch_idx", "data_index", "batch_no")),
    Column("batch_hash", "text", "hash of the batch's token ids", ("data_hash", "batch_digest"), label=True),
    Column("source", "text", "where the batch's data came from: a file, a shard, a dataset",
           ("shard", "data_source", "dataset", "source_shard"), label=True),
    Column("sample_ids", "list", "ids of the batch's samples", ("sample_id", "example_ids", "doc_ids"), label=True),
    Column("tokens", "tokens", "tokens in the batch",
           ("num_tokens", "n_tokens", "batch_tokens", "tokens_per_batch", "train/tokens", "batch_size_tokens")),
    Column("valid_labels", "tokens", "targets that are not ignored",
           ("n_valid_labels", "num_valid_labels", "valid_tokens", "n_targets", "num_targets", "loss_tokens")),
    Column("batch_size", "samples", "samples in the batch, of all ranks together",
           ("global_batch_size", "batch_size/batch_size", "train_batch_size", "total_batch_size",
            "effective_batch_size")),
    Column("accumulation", "micro-batches", "micro-batches whose gradients make one update",
           ("gradient_accumulation_steps", "gradient_accumulation", "grad_accum", "grad_accum_steps",
            "grad_accumulation_steps", "accumulate_grad_batches", "accumulation_steps", "accum_steps",
            "num_micro_batches", "num_microbatches")),
    Column("world_size", "ranks", "processes that train together",
           ("num_gpus", "n_gpus", "dp_world_size", "world_size/world_size", "data_parallel_size")),
    Column("rare_tokens", "tokens", "tokens of the batch that are rare in the corpus", ("n_rare_tokens",)),
    Column("repeated_ngram_tokens", "tokens", "tokens inside repeated n-grams", ("n_repeated_ngram_tokens",)),
    Column("token_ids", "list of lists", "the batch's token ids, one list per sample", ("input_ids",), label=True),
    Column("sample_text", "list of text", "the batch's samples as text, where a decode hook gave it", label=True),
    Column("worst_token_ids", "list", "ids of the tokens with the largest losses, worst first", label=True),
    Column("worst_token_losses", "list, nats", "their losses", label=True),
    Column("worst_token_rows", "list", "number of the sample in the batch that contains each of them", label=True),
    Column("worst_token_cols", "list", "position of each of them in its sample", label=True),
    Column("param_hash_part", "text", "one rank's part of the hash of parameters that are sharded", label=True),
    Column("param_hash", "text", "hash of all parameters after the update", ("parameter_hash", "params_hash"),
           label=True),
    Column("tokens_per_s", "tokens/s", "training throughput",
           ("tokens_per_sec", "tokens_per_second", "tok_per_s", "tok/s", "tok/sec", "tokens/s", "tokens/sec", "tps",
            "train/tokens_per_s", "train/tokens_per_sec", "train/tokens_per_second", "perf/tokens_per_sec",
            "throughput/tokens_per_sec", "throughput/device/tokens_per_sec", "throughput(tps)", "throughput",
            "tokens_per_second_per_gpu")),
    Column("step_time_s", "s", "wall time of one step",
           ("step_time", "iter_time", "iteration_time", "time_per_step", "sec_per_step", "seconds_per_step",
            "train/step_time", "perf/step_time", "time_metrics/end_to_end(s)", "elapsed_time_per_iteration_s")),
    Column("loss/rank<r>", "nats per token", "train loss on one rank"),
    Column("time", "unix seconds", "when the row was written", ("timestamp", "_timestamp", "wall_time", "walltime")),
)  # fmt: skip

CANONICAL: Mapping[str, Column] = MappingProxyType({column.name: column for column in _ALL})
FAMILIES: Mapping[str, Column] = MappingProxyType({c.family: c for c in _ALL if c.family is not None})
KEYS = ("attempt", "step", "rank")
STEP_ALIASES = (
    "step", "global_step", "_step", "trainer/global_step", "train/global_step", "train/step", "training/step",
    "iteration", "iter", "iterations", "it", "steps", "iter_num", "train_step", "training_step", "train_steps",
    "current_step", "current_steps", "global_step/max_steps", "num_updates", "num_steps", "n_steps", "update",
    "updates", "global_steps", "step_num", "batch_num", "train/iteration", "train/iter", "optimizer/step",
    "trainer/step", "iters", "n_iter", "num_iter", "step_count", "timestep", "timesteps", "num_timesteps",
    "total_timesteps", "time/total_timesteps", "time/batch", "batch",
)  # fmt: skip
EPOCH_ALIASES = ("epoch", "epochs", "epoch_num", "current_epoch", "cur_epoch", "time/epoch")
"""Names of the number of the epoch: the steps of a log that counts nothing else."""

# A column of only this value was never measured: tr1-13B logged grad norm 0.000 throughout, Megatron prints −1.0.
PLACEHOLDERS: Mapping[str, float] = MappingProxyType(
    {"grad_norm": 0.0, "grad_norm_clipped": 0.0, "param_norm": 0.0, "loss_scale": -1.0}
)

# Columns in which two bit-identical runs differ: they measure the machine, not the training.
CLOCKS = frozenset({"time", "step_time_s", "tokens_per_s"})
_CLOCK_WORDS = frozenset((
    "time", "timestamp", "runtime", "elapsed", "duration", "seconds", "sec", "throughput", "tps", "flops", "tflops",
    "mfu", "memory", "mem", "utilization", "temperature", "power",
))  # fmt: skip


def is_clock(name: str) -> bool:
    """Whether a column measures the machine: a canonical clock, or an unknown name with a word for one."""
    if describe(name) is not None:
        return name in CLOCKS
    return not _CLOCK_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", name.lower()))


def describe(name: str) -> Column | None:
    """The canonical column of this name, or the family that it is a member of; None for an unknown name."""
    column = CANONICAL.get(name)
    if column is not None and column.family is None:
        return column
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return family
    return None


def is_canonical(name: str) -> bool:
    """Whether `name` is a key, a canonical column, or a member of a family."""
    return name in KEYS or describe(name) is not None


def canonical_order(name: str) -> tuple[int, str]:
    """Sort key: canonical columns in the order of the table, members of a family by name."""
    column = describe(name)
    return (len(_ALL) if column is None else _ALL.index(column), name)
