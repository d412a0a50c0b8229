"""From a log's own names to the canonical ones."""

from __future__ import annotations

import pytest

from postmortem.run.columns import CANONICAL, PLACEHOLDERS, describe
from postmortem.run.naming import assign_columns, is_label, normal


@pytest.mark.parametrize(
    ("own", "canonical"),
    [
        ("step", "step"), ("global_step", "step"), ("_step", "step"), ("iteration", "step"), ("iter", "step"),
        ("it", "step"), ("steps", "step"), ("Step", "step"), ("trainer/global_step", "step"),
        ("train/global_step", "step"), ("loss", "loss"), ("Train Loss", "loss"), ("train/loss", "loss"),
        ("training_loss", "loss"), ("lm loss", "loss"), ("lm-loss", "loss"), ("lm_loss", "loss"),
        ("loss/train", "loss"), ("train/lm_loss", "loss"), ("train_loss_step", "loss"), ("lr", "lr"),
        ("learning_rate", "lr"), ("learning-rate", "lr"), ("train/learning_rate", "lr"), ("lr-AdamW", "lr"),
        ("lr-AdamW/pg1", "lr"), ("gradient_norm", "grad_norm"), ("grad-norm", "grad_norm"), ("gnorm", "grad_norm"),
        ("train/grad_norm", "grad_norm"), ("global_grad_norm", "grad_norm"), ("norm", "grad_norm"),
        ("grad norm", "grad_norm"), ("grad_2.0_norm_total", "grad_norm"), ("grad_norm/total", "grad_norm"),
        ("val_loss", "eval_loss"), ("validation/loss", "eval_loss"), ("eval/loss", "eval_loss"),
        ("valid_loss", "eval_loss"), ("loss scale", "loss_scale"), ("params norm", "param_norm"),
        ("number of skipped iterations", "skipped"), ("tokens_per_sec", "tokens_per_s"),
        ("Grad-Norm/layer0", "grad_norm/layer0"), ("act_rms/block.1", "act_rms/block.1"),
    ],
)  # fmt: skip
def test_usual_names_need_no_map(own: str, canonical: str) -> None:
    assert assign_columns((own,), {}, {}, "x").logged_as == {canonical: own}


@pytest.mark.parametrize(
    ("own", "canonical"),
    [
        ("current_steps", "step"), ("training/global_step", "step"), ("num_updates", "step"), ("time/batch", "step"),
        ("iters", "step"), ("n_iter", "step"), ("Timestep", "step"), ("num_timesteps", "step"),
        ("global_step/max_steps", "step"), ("loss/train/total", "loss"), ("metrics/train/LanguageCrossEntropy", "loss"),
        ("reduced_train_loss", "loss"), ("loss/current", "loss"), ("loss/average", "loss"), ("avr_loss", "loss"),
        ("mean_loss", "loss"), ("train_loss_epoch", "loss"), ("train_loss_local", "loss"), ("trainLoss", "loss"),
        ("lossTrain", "loss"), ("grads/global_norm", "grad_norm"),
        ("lm-loss-training/lm loss", "loss"), ("Train/Samples/train_loss", "loss"), ("ppo/loss/total", "loss"),
        ("actor/pg_loss", "loss"), ("train/policy_loss", "loss"), ("train/mse_loss", "loss"), ("Loss/train", "loss"),
        ("Loss/val", "eval_loss"), ("eval/wikitext/loss", "eval_loss"), ("valLoss", "eval_loss"),
        ("val_mse_loss", "eval_loss"), ("lr-DecoupledAdamW/group0", "lr"), ("lr-Lion", "lr"), ("lr-Muon/pg2", "lr"),
        ("lr-Adafactor-1", "lr"), ("learning-rate/learning-rate", "lr"), ("Train/Samples/lr", "lr"), ("lr/unet", "lr"),
        ("lr/pg0", "lr"), ("x/lr0", "lr"), ("optim/LR (group 0)", "lr"), ("current_lr", "lr"), ("train_lr", "lr"),
        ("grad/norm/total", "grad_norm"), ("total_norm", "grad_norm"), ("global_norm", "grad_norm"),
        ("grad-norm/grad-norm", "grad_norm"), ("metrics/train/grad_norm", "grad_norm"),
        ("train/grad_norm/step", "grad_norm"), ("params/norm/total", "param_norm"),
        ("l2_norm/param/global", "param_norm"), ("loss-scale/loss-scale", "loss_scale"),
        ("Train/Samples/loss_scale", "loss_scale"), ("tokens_per_second_per_gpu", "tokens_per_s"),
    ],
)  # fmt: skip
def test_names_of_a_tool_are_known_by_their_pattern(own: str, canonical: str) -> None:
    assert assign_columns((own,), {}, {}, "x").logged_as == {canonical: own}


@pytest.mark.parametrize(
    "own",
    [
        "load_balancing_loss", "router_z_loss", "z_loss", "train/ZLoss", "aux_loss", "train/kl_loss", "entropy_loss",
        "best_val_loss", "loss/perplexity", "kl", "reward", "entropy", "lr-AdamW-momentum", "lr_scheduler",
        "layers.0/grad_norm", "grad-norm/grad-norm vs samples", "lm loss/lm loss vs samples", "updates/norm/total",
        "train/time", "train/steps_per_second", "epoch",
    ],
)  # fmt: skip
def test_other_names_are_not_taken_for_one(own: str) -> None:
    names = assign_columns((own,), {}, {}, "x")
    assert names.logged_as == {} and names.unknown == (own,) and names.losses == ()


def test_a_name_said_twice_is_no_layer() -> None:
    names = assign_columns(("grad_norm", "grad-norm/grad-norm", "grad_norm/layer1"), {}, {}, "x")
    assert names.logged_as == {"grad_norm": "grad_norm", "grad_norm/layer1": "grad_norm/layer1"}


@pytest.mark.parametrize(
    ("columns", "loss"),
    [
        (("policy_loss", "value_loss", "total_loss"), "total_loss"),
        (("ppo/loss/value", "ppo/loss/policy", "ppo/loss/total"), "ppo/loss/total"),
        (("loss_mlm", "loss_nsp"), None),
        (("train/box_loss", "train/cls_loss", "train/dfl_loss", "val/box_loss"), None),
        (("gen/loss", "disc/loss"), None),
        (("actor/pg_loss", "actor/kl_loss", "critic/vf_loss"), None),
        (("actor/pg_loss", "actor/kl_loss", "actor/entropy_loss"), "actor/pg_loss"),
        (("lm loss", "load_balancing_loss", "z_loss"), "lm loss"),
        (("loss/average", "loss/current"), "loss/current"),
        (("avr_loss", "step_loss"), "step_loss"),
        (("loss_ema", "train/loss"), "train/loss"),
        (("loss/train/total", "metrics/train/LanguageCrossEntropy"), "loss/train/total"),
    ],
)
def test_of_several_losses_the_whole_and_raw_one_counts_or_none(columns: tuple[str, ...], loss: str | None) -> None:
    for names in (columns, columns[::-1]):
        read = assign_columns(names, {}, {}, "x")
        assert read.logged_as.get("loss") == loss and "eval_loss" not in read.logged_as
        assert not read.smoothed and bool(read.losses) == (loss is None)


def test_a_loss_that_its_name_calls_smoothed_is_said_to_be() -> None:
    for own in ("loss/average", "avr_loss", "avg_loss", "loss_ema", "running_loss", "train/loss_smooth", "lossAvg"):
        names = assign_columns((own,), {}, {}, "x")
        assert names.smoothed == {"loss"} and "smoothed" in names.notes[0]
    assert not assign_columns(("loss_metrics/global_avg_loss",), {}, {}, "x").smoothed
    assert assign_columns(("mean", "loss_ema"), {"loss": "loss_ema"}, {}, "x").smoothed == {"loss"}


def test_groups_are_chosen_in_the_order_of_their_numbers() -> None:
    names = assign_columns(("lr/group10", "lr/group2", "lr/group1"), {}, {}, "x")
    assert names.logged_as == {"lr": "lr/group1"} and "not lr/group2, lr/group10" in names.notes[0]


def test_the_exact_name_wins() -> None:
    names = assign_columns(("train/loss", "loss", "validation/loss"), {}, {}, "x")
    assert names.logged_as == {"loss": "loss", "eval_loss": "validation/loss"} and names.unknown == ("train/loss",)


def test_of_two_aliases_the_first_of_the_table_wins_with_a_note() -> None:
    for order in (("lm loss", "train_loss"), ("train_loss", "lm loss")):
        names = assign_columns(order, {}, {}, "x")
        assert names.logged_as["loss"] == "train_loss" and "lm loss" in names.notes[0]


def test_precedence_of_map_and_run_json() -> None:
    names = ("a", "b", "loss")
    assert assign_columns(names, {"a": "loss"}, {}, "x").logged_as["loss"] == "a"
    assert assign_columns(names, {"a": "loss"}, {"loss": "b"}, "x").logged_as["loss"] == "b"
    assert assign_columns(names, {"gone": "loss"}, {"lr": "gone"}, "x").logged_as == {"loss": "loss"}


def test_a_total_is_a_member_of_the_family_where_the_single_column_exists() -> None:
    names = assign_columns(("grad_norm", "grad_norm/total"), {}, {}, "x")
    assert names.logged_as == {"grad_norm": "grad_norm", "grad_norm/total": "grad_norm/total"}


def test_the_table_is_consistent() -> None:
    single = [c for c in CANONICAL.values() if c.family is None]
    aliases = [normal(alias) for c in single for alias in c.aliases]
    assert len(aliases) == len(set(aliases)), "an alias has two meanings"
    assert all(c.unit and c.meaning for c in CANONICAL.values())
    assert set(PLACEHOLDERS) <= set(CANONICAL)
    assert is_label("batch_hash") and is_label("Data-Hash") and not is_label("loss")
    assert describe("grad_norm/<group>") is CANONICAL["grad_norm/<group>"] and describe("nothing") is None


def test_names_of_the_format_go_between_run_json_and_the_shared_ones() -> None:
    names = ("a", "b", "loss", "lr")
    of_format = {"gone": "loss", "a": "loss", "b": "loss", "loss": "eval_loss"}
    assert assign_columns(names, {}, {}, "x", of_format).logged_as == {"loss": "a", "eval_loss": "loss", "lr": "lr"}
    assert assign_columns(names, {"b": "loss"}, {}, "x", of_format).logged_as["loss"] == "b"
    assert assign_columns(names, {}, {"loss": "lr"}, "x", of_format).logged_as == {"loss": "lr", "eval_loss": "loss"}
    assert assign_columns(names, {"a": "lr"}, {}, "x", {"a": "loss"}).logged_as == {"lr": "a", "loss": "loss"}
