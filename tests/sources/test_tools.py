"""Logs of well-known tools, in the layout of real files: the right columns and steps, and what they cannot say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from postmortem.run.naming import assign_columns
from postmortem.sources import open_run
from tests.sources.helpers import losses, write

Row = Mapping[str, object]


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return "\n".join([",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows), ""])


def _loss(step: int) -> float:
    return round(3 - step / 2000, 4)


def _detectron2(first: int = 19, last: int = 1000, more: float = 0.0) -> list[Row]:
    return [
        {"data_time": 0.01, "eta_seconds": 9.5, "iteration": i, "loss_box_reg": 0.5, "loss_cls": 0.5, "lr": 0.01,
         "rank_data_time": 0.01, "time": 0.3, "total_loss": _loss(i) + more}
        for i in range(first, last, 20)
    ]  # fmt: skip


def _mmdet() -> list[Row]:
    rows: list[Row] = [{"env_info": "linux", "config": "model = dict()\n" * 300, "seed": None, "exp_name": "x.py"}]
    for epoch in range(1, 5):
        rows += [
            {"mode": "train", "epoch": epoch, "iter": i, "lr": 0.01, "memory": 900, "data_time": 0.1, "time": 0.3,
             "loss_rpn_cls": 0.5, "loss_cls": 0.5, "loss": _loss(epoch * 500 + i - 500)}
            for i in range(50, 501, 50)
        ]  # fmt: skip
        rows.append({"mode": "val", "epoch": epoch, "iter": 5000, "lr": 0.01, "bbox_mAP": 0.3})
    return rows


def _mmengine() -> list[Row]:
    rows: list[Row] = []
    for i in range(50, 1001, 50):
        rows.append({"lr": 0.01, "data_time": 0.1, "loss": _loss(i), "loss_cls": 0.5, "grad_norm": 2.0, "time": 0.3,
                     "epoch": 1 + i // 501, "iter": i, "memory": 900, "step": i})  # fmt: skip
        rows += [{"coco/bbox_mAP": 0.3, "data_time": 0.1, "time": 0.2, "step": i // 500}] if i % 500 == 0 else []
    return rows


def _fairseq() -> list[Row]:
    return [
        {"epoch": 1, "update": i / 70, "loss": f"{_loss(i):.4f}", "nll_loss": "2.1", "ppl": "9.5", "wps": "30000",
         "num_updates": str(i), "lr": "0.001", "gnorm": "1.5", "loss_scale": "128", "train_wall": "9"}
        for i in range(10, 400, 10)
    ]  # fmt: skip


def _llama_factory() -> list[Row]:
    rows: list[Row] = [
        {"current_steps": i, "total_steps": 300, "loss": _loss(i), "lr": 1e-4, "epoch": i / 100, "percentage": i / 3,
         "elapsed_time": "0:01:10", "remaining_time": "3 days, 1:00:00", "throughput": "2100.00", "total_tokens": 9}
        for i in range(10, 301, 10)
    ]  # fmt: skip
    return [*rows, {"current_steps": 300, "total_steps": 300, "eval_loss": 2.5, "epoch": 3.0}]


def _ms_swift() -> list[Row]:
    return [
        {"loss": _loss(i), "grad_norm": 0.5, "learning_rate": 1e-4, "memory(GiB)": 20.1, "train_speed(iter/s)": 0.5,
         "epoch": i / 100, "global_step/max_steps": f"{i}/300", "percentage": "3%", "elapsed_time": "1m 2s"}
        for i in range(5, 301, 5)
    ]  # fmt: skip


def _verl() -> list[Row]:
    return [
        {"step": i, "data": {"actor/pg_loss": _loss(i), "actor/grad_norm": 0.5, "actor/lr": 1e-6, "actor/ppo_kl": 0.01,
                             "actor/entropy": 0.5, "critic/score/mean": 0.2, "training/global_step": i}}
        for i in range(1, 40)
    ]  # fmt: skip


def _sb3() -> list[Row]:
    rows: list[Row] = []
    for i in range(1, 30):
        row: Row = {"time/iterations": i, "time/total_timesteps": 2048 * i, "rollout/ep_rew_mean": i / 2}
        trained: Row = {"train/loss": _loss(i), "train/value_loss": 0.5, "train/policy_gradient_loss": -0.01,
                        "train/learning_rate": 3e-4, "train/n_updates": 10 * i, "train/approx_kl": 0.01}  # fmt: skip
        rows.append(row | (trained if i > 1 else {}))
    return rows


def _ultralytics() -> list[Row]:
    return [
        {"epoch": i, "time": 10.5 * i, "train/box_loss": _loss(i) - 2, "train/cls_loss": 1.5, "train/dfl_loss": 0.5,
         "metrics/mAP50(B)": 0.5, "val/box_loss": 1.0, "val/cls_loss": 1.5, "val/dfl_loss": 0.5, "lr/pg0": 0.01,
         "lr/pg1": 0.01, "lr/pg2": 0.01}
        for i in range(1, 20)
    ]  # fmt: skip


def _of_epochs(**columns: object) -> list[Row]:
    return [{"epoch": i, **{n: _loss(i) if v is None else v for n, v in columns.items()}} for i in range(20)]


def _fastai() -> list[Row]:
    return _of_epochs(train_loss=None, valid_loss=2.5, accuracy=0.5, time="01:12")


def _timm() -> list[Row]:
    return _of_epochs(train_loss=None, eval_loss=2.5, eval_top1=50.0, eval_top5=90.0, lr=0.001)


def _keras() -> list[Row]:
    return _of_epochs(accuracy=0.5, loss=None, lr=0.001, val_accuracy=0.5, val_loss=2.5)


LOGS: list[tuple[str, Callable[[], list[Row]], str, str, int, int, str]] = [
    ("metrics.json", _detectron2, "detectron2 or OpenMMLab", "loss lr step_time_s", 19, 999, "median of 20"),
    ("20260101_000000.log.json", _mmdet, "detectron2 or OpenMMLab", "loss lr step_time_s", 50, 2000, "a mean"),
    ("scalars.json", _mmengine, "detectron2 or OpenMMLab", "loss lr grad_norm step_time_s", 50, 1000, "a mean"),
    ("log.json", _fairseq, "jsonl", "loss lr grad_norm loss_scale", 10, 390, ""),
    ("trainer_log.jsonl", _llama_factory, "Trainer lines", "loss eval_loss lr tokens_per_s", 10, 300, "logging_steps"),
    ("logging.jsonl", _ms_swift, "Trainer lines", "loss lr grad_norm", 5, 300, "logging_nan_inf_filter"),
    ("verl.jsonl", _verl, "jsonl", "loss lr grad_norm", 1, 39, ""),
    ("progress.csv", _sb3, "csv", "loss lr", 4096, 59392, "loss is blank in 1 of 29 steps"),
    ("results.csv", _ultralytics, "ultralytics", "loss eval_loss lr time", 1, 19, "the mean of an epoch"),
    ("history.csv", _fastai, "fastai", "loss eval_loss", 0, 19, "running mean"),
    ("summary.csv", _timm, "csv", "loss eval_loss lr", 0, 19, "column epoch is read as the step"),
    ("training_log.csv", _keras, "csv", "loss eval_loss lr", 0, 19, "column epoch is read as the step"),
]


@pytest.mark.parametrize(
    ("name", "rows", "source", "columns", "first", "last", "note"), LOGS, ids=lambda v: str(v)[:16]
)
def test_a_log_of_a_tool(
    tmp_path: Path,
    name: str,
    rows: Callable[[], list[Row]],
    source: str,
    columns: str,
    first: int,
    last: int,
    note: str,
) -> None:
    text = _table(rows()) if name.endswith(".csv") else _lines(rows())
    run = open_run(write(tmp_path, name, text))
    assert run.source == source and " ".join(run.columns) == columns
    loss = run.series("loss")
    assert loss is not None and (loss.step[0], loss.step[-1]) == (first, last)
    assert len(run.segments) == 1 and note in "\n".join(run.notes)


def test_the_rows_of_openmmlab_are_in_order(tmp_path: Path) -> None:
    run = open_run(write(tmp_path, "x.log.json", _lines(_mmdet())))
    assert losses(run) == {i: _loss(i) for i in range(50, 2001, 50)}


def test_restarts_in_a_file_of_detectron2_are_kept_apart(tmp_path: Path) -> None:
    ends = (1000, 300, 500, 200, 900, 1200)
    rows = [row for attempt, last in enumerate(ends) for row in _detectron2(last=last, more=attempt / 10)]
    run = open_run(write(tmp_path, "metrics.json", _lines(rows)))
    assert len(run.segments) == 6 and losses(run) == {i: _loss(i) + 0.5 for i in range(19, 1200, 20)}
    first = run.series("loss", attempt=0)
    assert first is not None and first.value.tolist() == [_loss(i) for i in range(19, 1000, 20)]


def test_a_resume_in_a_file_of_detectron2(tmp_path: Path) -> None:
    rows = [*_detectron2(), *_detectron2(first=519, last=1600, more=0.01)]
    run = open_run(write(tmp_path, "metrics.json", _lines(rows)))
    assert [(s.first_step, s.last_step) for s in run.segments] == [(19, 999), (519, 1599)]
    assert losses(run)[499] == _loss(499) and losses(run)[519] == _loss(519) + 0.01


def test_the_parts_of_an_ultralytics_loss_are_summed(tmp_path: Path) -> None:
    rows = [dict(row) for row in _ultralytics()]
    run = open_run(write(tmp_path, "results.csv", _table(rows)))
    assert losses(run) == {i: pytest.approx(_loss(i)) for i in range(1, 20)}
    held = run.series("eval_loss")
    assert held is not None and held.value.tolist() == [3.0] * 19
    assert "train/loss (sum) was added, the sum of train/box_loss, train/cls_loss, train/dfl_loss" in "".join(run.notes)
    rows[3]["train/cls_loss"] = ""
    for row in rows:
        del row["val/dfl_loss"]
    run = open_run(write(tmp_path, "results.csv", _table(rows)))
    assert len(losses(run)) == 18 and "eval_loss" not in run.columns
    for row in rows:
        row["train/cls_loss"] = "?"
    assert open_run(write(tmp_path, "results.csv", _table(rows))).series("loss") is None


PUBLIC_NAMES = {
    "step": "current_steps, training/global_step, num_updates, time/batch, batch, iters, n_iter, step_count, Timestep, "
    "num_timesteps, global_step/max_steps, time/total_timesteps",
    "loss": "loss/train/total, metrics/train/LanguageCrossEntropy, reduced_train_loss, loss/current, loss/average, "
    "avr_loss, avg_loss, step_loss, mean_loss, total_loss, train_loss_epoch, train_loss_local, "
    "lm-loss-training/lm loss, Train/Samples/train_loss, actor/pg_loss, train/policy_loss, ppo/loss/total",
    "lr": "lr-Lion, lr-AdamW/group0, lr-SGD/pg1, lr-Adam-1, learning-rate/learning-rate, Train/Samples/lr, lr/unet, "
    "lr/pg0, x/lr0, optim/LR (group 0), current_lr",
    "grad_norm": "grad/norm/total, total_norm, global_norm, grad-norm/grad-norm",
    "param_norm": "params/norm/total, l2_norm/param/global",
    "loss_scale": "loss-scale/loss-scale, Train/Samples/loss_scale",
    "tokens_per_s": "tokens_per_second_per_gpu",
}
NO_LOSSES = "updates/norm/total, kl, reward, entropy, load_balancing_loss, router_z_loss, z_loss"


@pytest.mark.parametrize(
    ("canonical", "name"), [(column, name) for column, names in PUBLIC_NAMES.items() for name in names.split(", ")]
)
def test_names_that_public_logs_have_are_known(canonical: str, name: str) -> None:
    other = "loss" if canonical == "step" else "step"
    assert assign_columns((other, name), {}, {}, "x").logged_as[canonical] == name


@pytest.mark.parametrize("name", NO_LOSSES.split(", "))
def test_terms_that_are_added_to_a_loss_are_none(name: str) -> None:
    assert assign_columns(("step", name), {}, {}, "x").unknown == (name,)


def test_a_table_without_losses_has_no_sum_of_them(tmp_path: Path) -> None:
    run = open_run(write(tmp_path, "results.csv", "epoch,lr/pg0\n1,0.1\n2,0.1\n3,0.1\n"), source="ultralytics")
    assert run.columns == ("lr",)


@pytest.mark.filterwarnings("error")
def test_rounds_of_huge_losses(tmp_path: Path) -> None:
    rows = [{"step": n % 10, "loss": 1.7e308 * (-1) ** n} for n in range(40)]
    assert losses(open_run(write(tmp_path, "x.jsonl", _lines(rows))))
