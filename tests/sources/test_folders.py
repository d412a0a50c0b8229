"""Folders of other tools, and a search one level down."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from postmortem.errors import UnreadableInput
from postmortem.sources import SeveralRuns, open_run
from tests.sources.helpers import ESCAPE, jsonl_rows, losses, write


def _state(folder: Path, last: int) -> Path:
    rows: list[dict[str, object]] = [{"epoch": t / 10, "step": t, "loss": 3 - t / 100} for t in range(10, last + 1, 10)]
    rows.append({"epoch": 1.0, "step": last, "train_runtime": 3.0, "train_loss": 2.5})
    text = json.dumps({"epoch": 1.0, "global_step": last, "log_history": rows}, indent=2)
    return write(folder, "trainer_state.json", text)


def test_the_newest_checkpoint_of_hugging_face_is_read(tmp_path: Path) -> None:
    for step in (100, 1000, 90):
        _state(tmp_path / f"checkpoint-{step}", step)
    (tmp_path / "checkpoint-2000").mkdir()
    write(tmp_path, "config.json", "{}")
    run = open_run(tmp_path)
    assert run.source == "Hugging Face folder" and run.row_steps[-1] == 1000
    assert run.notes[0] == "checkpoint-1000/trainer_state.json is the newest log in the folder: it was read"
    assert any("mean since the row before" in note for note in run.notes)
    assert run.origin("loss") == "checkpoint-1000/trainer_state.json, column loss"


@pytest.mark.parametrize(("own", "last"), [(1000, 1000), (1200, 1200), (500, 1000)])
def test_the_state_at_the_end_of_training_goes_before_an_older_checkpoint(tmp_path: Path, own: int, last: int) -> None:
    _state(tmp_path / "checkpoint-1000", 1000)
    _state(tmp_path, own)
    run = open_run(tmp_path)
    assert run.row_steps[-1] == last
    assert run.origin("loss").startswith("checkpoint-1000/" if own < last else "trainer_state.json")


def test_a_folder_with_rows_of_our_own_is_none_of_hugging_face(tmp_path: Path) -> None:
    _state(tmp_path, 100)
    write(tmp_path, "metrics.jsonl", jsonl_rows(3))
    assert open_run(tmp_path).row_steps.tolist() == [0, 1, 2]


def test_one_folder_with_a_log_is_read(tmp_path: Path) -> None:
    write(tmp_path, "config.json", "{}")
    write(tmp_path, "figures/a.png", b"\x89PNG")
    write(tmp_path, "logs/train_log.jsonl", jsonl_rows())
    run = open_run(tmp_path)
    assert len(losses(run)) == 5 and run.path == tmp_path / "logs"
    assert run.notes[0] == f"logs/ is the only folder in {tmp_path.name}/ with a log: it was read"


def test_a_log_in_the_folder_goes_before_those_below(tmp_path: Path) -> None:
    write(tmp_path, "logs/train_log.jsonl", jsonl_rows())
    write(tmp_path, "train.csv", "step,loss\n0,1\n1,2\n")
    assert losses(open_run(tmp_path)) == {0: 1.0, 1: 2.0}


def test_several_folders_with_a_log_are_listed(tmp_path: Path) -> None:
    for name in ("b", "a", "c d"):
        write(tmp_path, f"{name}/metrics.jsonl", jsonl_rows())
    write(tmp_path, "e/deep/metrics.jsonl", jsonl_rows())
    with pytest.raises(SeveralRuns, match="a folder of 3 runs: a, b, c d") as caught:
        open_run(tmp_path)
    run = caught.value.runs["c d"]()
    assert run.id == "c d" and len(losses(run)) == 5


def test_a_folder_without_a_log_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path, f"a{ESCAPE}.bin", b"\0")
    for name in ("b.md", "sub/c.md", "sub/deep/metrics.jsonl"):
        write(tmp_path, name, "hello\n")
    with pytest.raises(
        UnreadableInput, match=r"no log .* nor one level down\. It holds .*b\.md, sub/.*draft "
    ) as caught:
        open_run(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_of_files_that_no_format_is_sure_of_the_readable_one_is_read(tmp_path: Path) -> None:
    write(tmp_path, "config.json", "{}")
    write(tmp_path, "requirements.txt", "torch\n")
    with pytest.raises(UnreadableInput, match=r"no log of a run .* It holds config\.json, requirements\.txt"):
        open_run(tmp_path)
    preamble = "".join(f"import module_{i}\n" for i in range(5_000))
    write(tmp_path, "speedrun.log", preamble + "".join(f"step {t} | loss {3 - t / 10}\n" for t in range(9)))
    run = open_run(tmp_path)
    assert len(losses(run)) == 9 and "speedrun.log is the only log of its kind" in "".join(run.notes)


def test_a_log_and_its_copy_are_one_log(tmp_path: Path) -> None:
    for name in ("20260101_000000.json", "scalars.json"):
        write(tmp_path, f"vis_data/{name}", jsonl_rows())
    run = open_run(tmp_path)
    assert len(losses(run)) == 5 and run.origin("loss").startswith("20260101_000000.json")
    write(tmp_path, "vis_data/scalars.json", jsonl_rows(4))
    with pytest.raises(UnreadableInput, match=r"several logs: 20260101_000000\.json, scalars\.json"):
        open_run(tmp_path)


def test_several_logs_name_the_line_to_type(tmp_path: Path) -> None:
    for name in ("a b.csv", "c.csv"):
        write(tmp_path, name, f"step,loss\n0,1\n{len(name)},2\n")
    with pytest.raises(UnreadableInput, match=r"several logs: a b\.csv, c\.csv.*postmortem draft '.*/a b\.csv'"):
        open_run(tmp_path)


ROWS = "epoch,lr-AdamW,step,train_loss,val_loss\n" + "".join(
    f"{t // 30},,{t},{3 - t / 100},\n{t // 30},0.001,{t},,\n" for t in range(9, 60, 10)
)


def _version(root: Path, number: int, rows: str = ROWS) -> Path:
    folder = root / "lightning_logs" / f"version_{number}"
    write(folder, "hparams.yaml", "lr: 0.001\nlayers: [1, 2]\n")
    write(folder, "metrics.csv", rows)
    return folder


@pytest.mark.parametrize("given", [".", "lightning_logs", "lightning_logs/version_0"])
def test_one_version_of_lightning_is_read_with_its_settings(tmp_path: Path, given: str) -> None:
    _version(tmp_path, 0)
    (tmp_path / "lightning_logs" / "version_1" / "checkpoints").mkdir(parents=True)
    run = open_run(tmp_path / given)
    assert run.source == "Lightning logs" and run.id == "version_0"
    assert run.row_steps.tolist() == list(range(9, 60, 10)) and run.columns == ("loss", "lr")
    assert run.manifest.config == {"lr": 0.001, "layers": [1, 2]}
    assert any("log_every_n_steps" in note for note in run.notes)


def test_several_versions_are_listed_newest_first(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        _version(tmp_path, number)
    for path in (tmp_path, tmp_path / "lightning_logs"):
        with pytest.raises(
            SeveralRuns, match=r"3 runs: version_10, version_2, version_0\. .*--run version_10"
        ) as caught:
            open_run(path)
        assert caught.value.runs["version_2"]().id == "version_2"


def test_settings_that_cannot_be_read_do_not_hide_the_rows(tmp_path: Path) -> None:
    folder = _version(tmp_path, 0)
    write(folder, "hparams.yaml", "model: !!python/object:a.B {}\n")
    run = open_run(folder)
    assert len(losses(run)) == 6 and "hparams.yaml: cannot be read" in run.notes[0]
    write(folder, "hparams.yaml", "{}\n")
    assert open_run(folder).manifest.config == {}


def test_versions_without_a_log_say_what_they_hold(tmp_path: Path) -> None:
    write(tmp_path, "lightning_logs/version_0/hparams.yaml", "{}\n")
    with pytest.raises(UnreadableInput, match=r"no version of Lightning's with a log\. It holds version_0/"):
        open_run(tmp_path / "lightning_logs")


@pytest.mark.heavy
def test_what_the_trainer_of_hugging_face_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    history = [{"epoch": t / 100, "loss": math.nan if t == 30 else 3 - t / 100, "step": t} for t in range(10, 101, 10)]
    state = transformers.TrainerState(global_step=100, max_steps=200, log_history=history)
    (tmp_path / "checkpoint-100").mkdir()
    state.save_to_json(str(tmp_path / "checkpoint-100" / "trainer_state.json"))
    for path in (tmp_path, tmp_path / "checkpoint-100", tmp_path / "checkpoint-100" / "trainer_state.json"):
        loss = open_run(path).series("loss")
        assert loss is not None and loss.step.tolist() == list(range(10, 101, 10)) and math.isnan(loss.value[2])


@pytest.mark.heavy
def test_what_lightning_writes(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    for version in range(2):
        logger = loggers.CSVLogger(tmp_path, version=version)
        logger.log_hyperparams({"lr": 0.1})
        for step in range(0, 100, 10):
            logger.log_metrics({"train_loss": 2 - step / 100, "epoch": step // 50}, step)
            logger.log_metrics({"lr-AdamW": 0.1}, step)
        logger.save()
    with pytest.raises(SeveralRuns, match="version_1, version_0") as caught:
        open_run(tmp_path)
    run = caught.value.runs["version_0"]()
    assert run.row_steps.tolist() == list(range(0, 100, 10)) and run.columns == ("loss", "lr")
    assert run.manifest.config == {"lr": 0.1}
