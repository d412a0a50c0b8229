"""TensorBoard event files, as its own writer writes them; its own loader says what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("torch")

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from postmortem.errors import UnreadableInput
from postmortem.sources import open_run
from tests.sources.event_files import START, Event, Summary, column, event_file, falling, log
from tests.sources.helpers import losses

REAL_LOGS = Path(__file__).resolve().parents[3] / "shared" / "real_logs"


def test_the_scalars_are_those_of_tensorboards_own_loader(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    noise = rng.standard_normal(700)
    tags = {
        "train/loss": lambda t: float(noise[t % 700]),
        "train/grad_norm": lambda t: float("inf") if t == 300 else 1.0 + t,
        "train/learning_rate": lambda t: 1e-4,
        "odd": lambda t: float("nan") if t % 7 else -0.0,
    }
    path = log(tmp_path, tags, range(0, 40_000, 60))
    accumulator = EventAccumulator(str(path), {SCALARS: 0})
    accumulator.Reload()
    run = open_run(path)
    names = {"train/loss": "loss", "train/grad_norm": "grad_norm", "train/learning_rate": "lr", "odd": "odd"}
    for tag, name in names.items():
        theirs, ours = accumulator.Scalars(tag), run.series(name)
        assert ours is not None
        assert ours.step.tolist() == [event.step for event in theirs]
        assert np.array_equal(ours.value, [event.value for event in theirs], equal_nan=True)
    time = run.series("time")
    assert time is not None and time.value[:2].tolist() == [START, START + 1]
    assert run.source == "TensorBoard events" and run.other_columns == ("odd",)


TENSORS = [
    (np.float32(1.5), "float_val"), (np.float64(-2.25), "double_val"), (np.float16(0.5), "half_val"),
    (np.int32(-3), "int_val"), (np.int64(2**40), "int64_val"), (np.uint8(200), "int_val"), (np.bool_(True), "bool_val"),
    (np.float32(0), "float_val"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "field"), TENSORS, ids=[str(type(v).__name__) + str(v) for v, _ in TENSORS])
@pytest.mark.parametrize("packed", [False, True])
def test_scalars_that_are_tensors(tmp_path: Path, value: Any, field: str, packed: bool) -> None:
    events: list[Any] = []
    for step in range(3):
        tensor = tensor_util.make_tensor_proto(value)
        if packed:
            tensor.ClearField(field)
            tensor.tensor_content = np.asarray(value).tobytes()
        entry = Summary.Value(tag="loss", tensor=tensor)
        entry.metadata.plugin_data.plugin_name = "scalars"
        events.append(Event(wall_time=START, step=step, summary=Summary(value=[entry])))
        assert float(tensor_util.make_ndarray(tensor)) == float(value)
    assert losses(open_run(event_file(tmp_path, *events))) == dict.fromkeys(range(3), float(value))


def test_a_tensor_without_a_value_is_zero_and_bfloat16_is_read(tmp_path: Path) -> None:
    zero, brain = Summary.Value(tag="loss"), Summary.Value(tag="lr")
    zero.tensor.dtype = 1
    brain.tensor.dtype = 14
    brain.tensor.half_val.append(0x3F80)
    several = Summary.Value(tag="per_layer", tensor=tensor_util.make_tensor_proto(np.arange(3.0)))
    text = Summary.Value(tag="prompt", tensor=tensor_util.make_tensor_proto("hello"))
    values = [zero, brain, several, text]
    run = open_run(
        event_file(tmp_path, *(Event(wall_time=START, step=t, summary=Summary(value=values)) for t in range(2)))
    )
    assert losses(run) == {0: 0.0, 1: 0.0} and column(run, "lr") == {0: 1.0, 1: 1.0}
    assert any("ignored what is no scalar: 2 tensors, 2 texts" in note for note in run.notes)
    assert run.other_columns == ()


def test_what_is_no_scalar_is_ignored_and_told(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    for step in range(50):
        writer.add_scalar("loss", falling(step), step)
        writer.add_histogram("weights", np.arange(5.0) * step, step)
    writer.add_text("note", "text", 3)
    writer.add_image("sample", np.zeros((3, 4, 4)), 3)
    writer.close()
    run = open_run(tmp_path)
    assert len(losses(run)) == 50 and run.other_columns == ()
    (note,) = [note for note in run.notes if "no scalar" in note]
    assert "50 histograms" in note and "1 image" in note


def test_a_restart_loses_no_point(tmp_path: Path) -> None:
    log(tmp_path, {"loss": lambda t: 9.0 if t == 75 else falling(t)}, range(80))
    log(tmp_path, {"loss": lambda t: 0.5 + falling(t)}, range(60, 120), start=START + 1000)
    run = open_run(tmp_path)
    assert [segment.attempt for segment in run.segments] == [0, 1]
    assert losses(run)[75] == pytest.approx(0.5 + falling(75), rel=1e-6) and set(losses(run)) == set(range(120))
    first = run.series("loss", attempt=0)
    assert first is not None and first.step.size == 80 and first.at(75) == 9.0
    assert any("2 event files were read as one run" in note for note in run.notes)


def test_files_are_ordered_by_their_time_not_their_names(tmp_path: Path) -> None:
    log(tmp_path, {"loss": falling}, range(60, 120), start=START + 1000).rename(tmp_path / "a.tfevents")
    log(tmp_path, {"loss": lambda t: 9.0}, range(80)).rename(tmp_path / "b.tfevents")
    run = open_run(tmp_path)
    assert losses(run)[70] == pytest.approx(falling(70), rel=1e-6) and len(run.segments) == 2


def test_files_written_at_the_same_time_are_no_restart(tmp_path: Path) -> None:
    one = log(tmp_path, {"loss": falling}, range(80))
    other = log(tmp_path, {"loss": lambda t: 1.0}, range(80), start=START + 2)
    with pytest.raises(UnreadableInput) as caught:
        open_run(tmp_path)
    assert "written at the same time" in str(caught.value)
    assert f"postmortem draft {tmp_path}/{min(one, other, key=lambda p: p.name).name}" in str(caught.value)


def test_writers_of_other_tags_are_joined(tmp_path: Path) -> None:
    log(tmp_path, {"loss": falling, "lr": lambda t: 0.5}, range(20))
    log(tmp_path, {"grad_norm": float}, range(20), start=START + 0.5)
    log(tmp_path / "extra", {"tokens_per_s": lambda t: 100.0}, range(20))
    run = open_run(tmp_path)
    assert {"loss", "lr", "grad_norm", "tokens_per_s", "time"} == set(run.columns) and len(run.segments) == 1
    assert len(losses(run)) == len(column(run, "grad_norm")) == 20


def test_keras_folders_of_train_and_validation(tmp_path: Path) -> None:
    train = {"epoch_loss": falling, "epoch_learning_rate": lambda t: 0.25}
    validation = {"epoch_loss": lambda t: 1 + falling(t), "evaluation_loss_vs_iterations": lambda t: 7.0}
    log(tmp_path / "train", train, range(12))
    log(tmp_path / "validation", validation, range(12))
    run = open_run(tmp_path)
    assert losses(run)[0] == 4.0 and column(run, "eval_loss")[0] == 5.0 and column(run, "lr")[3] == 0.25
    assert any("evaluation_loss_vs_iterations was left out, whose steps are batches" in note for note in run.notes)


def test_keras_with_batches_counts_batches(tmp_path: Path) -> None:
    log(tmp_path / "train", {"batch_loss": falling}, range(120))
    log(tmp_path / "train", {"epoch_loss": lambda t: 9.0}, range(12), start=START + 1)
    log(tmp_path / "validation", {"evaluation_loss_vs_iterations": lambda t: 7.0}, range(10, 130, 10))
    run = open_run(tmp_path)
    assert len(losses(run)) == 120 and 9.0 not in losses(run).values()
    assert column(run, "eval_loss") == dict.fromkeys(range(10, 130, 10), 7.0)
    assert any("epoch_loss was left out, whose steps are epochs" in note for note in run.notes)


def test_a_batch_size_does_not_make_epochs_batches(tmp_path: Path) -> None:
    path = log(tmp_path, {"epoch_loss": falling, "batch_size": lambda t: 8.0}, range(12))
    assert len(losses(open_run(path))) == 12


def test_curves_of_add_scalars(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    for step in range(10):
        writer.add_scalars("model/loss", {"train": falling(step), "val": 8.0}, step, walltime=START + step)
    writer.close()
    run = open_run(tmp_path)
    assert losses(run)[0] == 4.0 and column(run, "eval_loss")[9] == 8.0


def test_several_runs_are_named_with_the_next_line_to_type(tmp_path: Path) -> None:
    logs = tmp_path / "lightning logs"
    for i in range(3):
        log(logs / f"version_{i}", {"train_loss": falling}, range(9), start=START + 100 * i)
    with pytest.raises(UnreadableInput) as caught:
        open_run(logs)
    assert "3 runs: version_0, version_1, version_2" in str(caught.value)
    assert f"postmortem draft '{logs}/version_2'" in str(caught.value)
    assert len(losses(open_run(logs / "version_2"))) == 9


@pytest.mark.parametrize(
    "names", [("test_run_1", "test_run_2"), ("a_test", "b_test"), ("exp1", "exp1_eval"), ("train", "test")]
)
def test_runs_that_are_called_tests_are_no_evaluation(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        log(tmp_path / name, {"loss": falling}, range(9))
    if names[0] in ("exp1", "train"):
        run = open_run(tmp_path)
        assert len(losses(run)) == len(column(run, "eval_loss")) == 9
    else:
        with pytest.raises(UnreadableInput, match="2 runs"):
            open_run(tmp_path)


def test_one_version_is_read_from_the_folder_above(tmp_path: Path) -> None:
    log(tmp_path / "version_0", {"train_loss_step": falling, "hp_metric": lambda t: -1.0}, range(9))
    assert len(losses(open_run(tmp_path))) == 9


def test_sessions_of_hyperparameters_are_no_writers(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    for step in range(10):
        writer.add_scalar("loss", falling(step), step)
    writer.add_hparams({"lr": 0.1}, {"loss": 0.1})
    writer.close()
    run = open_run(tmp_path)
    assert losses(run)[0] == 4.0 and len(losses(run)) == 10
    assert any("hyperparameters and their results" in note for note in run.notes)


def test_lightnings_logger_and_its_hyperparameters(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    for _ in range(2):
        logger = loggers.TensorBoardLogger(tmp_path)
        logger.log_hyperparams({"lr": 0.1})
        for step in range(0, 40, 10):
            logger.log_metrics({"train_loss": falling(step), "epoch": step // 20, "lr-AdamW/pg1": 0.5}, step)
        logger.finalize("success")
        if len(list((tmp_path / "lightning_logs").iterdir())) == 1:
            run = open_run(tmp_path / "lightning_logs")
            assert set(losses(run)) == {0, 10, 20, 30} and column(run, "lr")[0] == 0.5
    with pytest.raises(UnreadableInput, match="2 runs: version_1, version_0"):
        open_run(tmp_path / "lightning_logs")


TAGS = {
    "Hugging Face": (["train/loss", "train/grad_norm", "train/learning_rate", "train/epoch"], "eval/loss"),
    "torchtitan": (["loss_metrics/global_avg_loss", "grad_norm", "lr"], ""),
    "Megatron-LM": (["lm loss", "grad-norm", "learning-rate"], "lm loss validation"),
    "Megatron-DeepSpeed": (["lm-loss-training/lm loss", "grad-norm/grad-norm", "learning-rate/learning-rate"], ""),
    "NeMo": (["reduced_train_loss", "grad_norm", "lr"], "val_loss"),
    "Lightning": (["train_loss_step", "grad_2.0_norm_total", "lr-AdamW"], "val_loss"),
}


@pytest.mark.parametrize("tool", TAGS)
def test_tags_of_tools(tmp_path: Path, tool: str) -> None:
    (loss, norm, rate, *_), evaluation = TAGS[tool]
    tags = {
        loss: falling,
        norm: lambda t: 2.0,
        rate: lambda t: 3.0,
        **({evaluation: lambda t: 5.0} if evaluation else {}),
    }
    samples = {f"{tag} vs samples": lambda t: 77.0 for tag in tags} if tool.startswith("Megatron") else {}
    path = log(tmp_path, tags, range(20))
    if samples:
        log(tmp_path, samples, range(0, 20 * 512, 512))
        path = tmp_path
    run = open_run(path)
    assert set(losses(run)) == set(range(20)) and losses(run)[0] == 4.0
    assert set(column(run, "grad_norm").values()) == {2.0} and set(column(run, "lr").values()) == {3.0}
    assert set(column(run, "eval_loss").values()) == ({5.0} if evaluation else set())
    assert any("whose steps are samples" in note for note in run.notes) == bool(samples)


def test_steps_that_go_back_within_a_file(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    for step, loss in [*((t, 3.0) for t in range(60)), *((t, 2.0) for t in range(40, 90))]:
        writer.add_scalar("loss", loss, step)
        writer.add_scalar("lr", loss, step)
    writer.close()
    run = open_run(tmp_path)
    assert len(run.segments) == 2 and losses(run) == {t: 3.0 if t < 40 else 2.0 for t in range(90)}
    assert column(run, "lr") == losses(run)


def test_an_event_with_several_values_and_tags_called_like_keys(tmp_path: Path) -> None:
    def event(step: int) -> Any:
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in (("loss", 1.0), ("step", 7.0), ("time", 8.0))]
        return Event(wall_time=START + step, step=step, summary=Summary(value=values))

    run = open_run(event_file(tmp_path, *map(event, range(300))))
    assert len(losses(run)) == 300 and set(run.other_columns) == {"step (tag)", "time (tag)"}


@pytest.mark.skipif(not REAL_LOGS.is_dir(), reason="the real logs are not here")
@pytest.mark.parametrize("run", ["ap_nadamp_s3_deepspeech_t4", "ap_seq_s2_deepspeech", "ap_shampoo6_s1_wmt_t1"])
def test_real_events_have_the_values_of_the_csv_beside_them(run: str) -> None:
    events, rows = open_run(REAL_LOGS / f"{run}_tb"), open_run(REAL_LOGS / run / "measurements.csv")
    for name in ("loss", "eval_loss", "grad_norm"):
        ours, theirs = events.series(name), rows.series(name)
        assert ours is not None and theirs is not None
        both = np.isin(theirs.step, ours.step)
        assert both.mean() > 0.95
        same_steps = np.isin(ours.step, theirs.step)
        assert np.allclose(ours.value[same_steps], theirs.value[both], rtol=1e-6, equal_nan=True)
