"""Logs as run directories: nothing that was read is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from postmortem import pipeline
from postmortem.errors import CannotWrite, UsageError
from postmortem.run import Run
from postmortem.run.directory import write_directory
from postmortem.sources import open_run
from tests.makers import write_run
from tests.samples import sample


def _log(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _curve(step: int) -> float:
    return 2 - step / 400 + (step % 7) / 50 + 3 * (step == 150)


LOGS = {
    "plain.csv": "step,loss,lr\n" + "".join(f"{i},{_curve(i)},1e-3\n" for i in range(300)),
    "resumed.csv": "it,train/loss,what\n"
    + "".join(f"{i},{_curve(i) + k / 9},{i % 3}\n" for k in (0, 1) for i in range(k * 150, 200 + k * 100)),
    "epochs.csv": "epoch,train_loss,val_loss\n" + "".join(f"{i},{_curve(i)},3\n" for i in range(300)),
    "rounds.csv": "epoch,step,loss,rank'\n"
    + "".join(f"{e},{i},{_curve(50 * e + i)},1\n" for e in range(6) for i in range(50)),
    "smoothed.csv": "step,ema_loss\n" + "".join(f"{i},{_curve(i)}\n" for i in range(300)),
    "blank.jsonl": "".join(
        json.dumps({"step": i, "loss": float("nan") if i > 280 else _curve(i), "digest": f"0{i}", "extra": "a,b"})
        + "\n"
        + json.dumps({"step": i, "eval_loss": 2.0, "ids": [i, 2]})
        + "\n"
        for i in range(300)
    ),
}


def _same(a: Run, b: Run) -> None:
    """Two runs have the same rows, attempts and columns."""
    assert [*a.segments] == [*b.segments] and a.columns == b.columns and a.ranks == b.ranks
    assert set(a.other_columns) <= set(b.other_columns) and a.smoothed == b.smoothed
    for attempt in (None, *(segment.attempt for segment in a.segments)):
        assert np.array_equal(a.steps(attempt=attempt), b.steps(attempt=attempt))
        for name in (*a.columns, *a.other_columns):
            before, after = (run.series(name, attempt=attempt) for run in (a, b))
            if before is None:
                labels, kept = (run.labels(name, attempt=attempt) for run in (a, b))
                assert labels is not None and kept is not None and kept.value.tolist() == labels.value.tolist()
            else:
                assert after is not None and np.array_equal(after.step, before.step)
                assert np.array_equal(after.value, before.value, equal_nan=True)


@pytest.mark.parametrize("name", LOGS)
def test_the_directory_of_a_log_gives_its_diagnosis(tmp_path: Path, name: str) -> None:
    run = open_run(_log(tmp_path / name, LOGS[name]), {"batch_hash": "digest"} if name == "blank.jsonl" else None)
    write_directory(run, tmp_path / "runs" / "new")
    back = open_run(tmp_path / "runs" / "new")
    _same(run, back)
    assert back.id == run.id
    before, after = (pipeline.diagnose(each) for each in (run, back))
    assert [i.onset_step for i in after.incidents] == [i.onset_step for i in before.incidents]
    assert (after.verdict, after.not_judged) == (before.verdict, before.not_judged)
    assert [[h.cause for h in i.hypotheses] for i in after.incidents] == [
        [h.cause for h in i.hypotheses] for i in before.incidents
    ]
    assert back.manifest.raw["converted"] == {"source": run.source, "notes": list(run.notes)}


def test_journal_batches_ranks_and_vocabulary_are_kept(tmp_path: Path) -> None:
    rows = [0, 1, 2, 1, 2, 3]
    columns = {"loss": [5.0, 4.0, np.nan, 4.5, None, 3.0], "mine": ["a", None, "c", "d", "e", "f"]}
    root = write_run(
        tmp_path / "old",
        columns,
        steps=rows,
        attempt=[0, 0, 0, 1, 1, 1],
        batches={"token_ids": [[[1, 2]]] * 6, "batch_hash": ["007"] * 6},
        manifest={"config": {"lr": 1}, "columns": {"mine": "source"}},
        journal=[{"event": "resume", "step": 1, "from_step": 1, "time": 1.5, "own": "key"}],
        vocab=["a", "b", "c"],
    )
    run = open_run(root)
    write_directory(run, tmp_path / "new")
    back = open_run(tmp_path / "new")
    _same(run, back)
    assert back.journal == run.journal and back.vocab() == run.vocab() and back.manifest.config == {"lr": 1}


def test_a_sample_run(tmp_path: Path) -> None:
    run = open_run(sample("19-spike-001"))
    write_directory(run, tmp_path / "copy")
    _same(run, open_run(tmp_path / "copy"))


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(_log(tmp_path / "log.csv", LOGS["plain.csv"]))
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match=r"there: exists already\. Choose a new folder\."):
        write_directory(run, tmp_path / "there")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("postmortem.run.directory.write_new", full)
    with pytest.raises(CannotWrite, match="No space left on device"):
        write_directory(run, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "there"]
