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


def test_epoch_is_no_step() -> None:
    names = assign_columns(("epoch", "loss"), {}, {}, "x")
    assert "step" not in names.logged_as and names.unknown == ("epoch",)


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
