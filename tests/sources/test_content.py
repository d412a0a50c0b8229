"""The content of a file goes before what its name ends in, and text that only looks like a table is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from postmortem.errors import UnreadableInput
from postmortem.sources import Candidate, Confidence, open_run
from postmortem.sources._registry import best_matches
from tests.sources.helpers import jsonl_rows, losses, write

LOSSES = {t: 2.0 - t / 10 for t in range(5)}


def _csv(delimiter: str = ",") -> str:
    return f"step{delimiter}loss\n" + "".join(f"{t}{delimiter}{loss}\n" for t, loss in LOSSES.items())


def _list(**around: object) -> str:
    rows = [{"step": t, "loss": loss} for t, loss in LOSSES.items()]
    return json.dumps({"epoch": 1.0, **around, "log_history": rows} if around else rows, indent=1)


FORMATS: dict[str, Callable[[], str]] = {
    "csv": _csv,
    "jsonl": jsonl_rows,
    "json": _list,
    "Hugging Face": lambda: _list(global_step=5),
    "Keras history": lambda: json.dumps({"loss": list(LOSSES.values()), "accuracy": [0.5] * 5}),
}


@pytest.mark.parametrize("ending", [".log", ".txt", ".json", ".out", ".csv", ".jsonl", ""])
@pytest.mark.parametrize("source", FORMATS)
def test_a_format_is_known_by_its_content(tmp_path: Path, source: str, ending: str) -> None:
    run = open_run(write(tmp_path, f"metrics{ending}", FORMATS[source]()))
    assert run.source == source and losses(run) == LOSSES


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_in_a_text_file(tmp_path: Path, delimiter: str) -> None:
    assert losses(open_run(write(tmp_path, "train.log", _csv(delimiter)))) == LOSSES


@pytest.mark.parametrize(
    "text",
    [
        "step: 1, loss: 2.0\nstep: 2, loss: 1.5\nstep: 3, loss: 1.2\n",
        "step=1, loss=2.0\nstep=2, loss=1.5\nstep=3, loss=1.2\n",
        "{'loss': 2.0, 'epoch': 1}\n{'loss': 1.5, 'epoch': 2}\n{'loss': 1.2, 'epoch': 3}\n",
        'starting {"a": 1}\n{"step": 1, "loss": 2}\n{"step": 2, "loss": 2}\n',
        "2026-01-01 10:00:00,123 INFO step 1\n2026-01-01 10:00:01,124 INFO step 2\n2026-01-01 10:00:01,125 INFO x\n",
        "the quick, brown\nfox, jumps\nover, it\n",
        "1,2\n3,4\n5,6\n",
        "step,loss\n0,1\n",
        "step,loss\n0,1\n1\n2,1\n",
        "step,step\n0,1\n1,2\n2,1\n",
        "step,loss\n0,a\n1,b\n2,c\n",
        '"step,loss\n0,1\n1,2\n2,1\n',
        "\udcff,loss\n0,1\n1,2\n",
    ],
)
def test_text_with_commas_or_braces_is_no_table(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "train.log", text.encode("utf-8", "surrogateescape"))
    assert not {match.source.name for match in best_matches(Candidate(path))} & FORMATS.keys()


@pytest.mark.parametrize(
    ("name", "text", "confidence"),
    [
        ("data.txt", "a,b\n1,2\n3,4\n5,6\n", Confidence.POSSIBLE),
        ("data.txt", '{"a": 1}\n{"a": 2}\n', Confidence.FALLBACK),
        ("data.json", '[{"a": 1}]', Confidence.FALLBACK),
    ],
)
def test_numbers_that_count_nothing_are_no_sure_log(
    tmp_path: Path, name: str, text: str, confidence: Confidence
) -> None:
    path = write(tmp_path, name, text)
    assert [match.match.confidence for match in best_matches(Candidate(path))] == [confidence]
    with pytest.raises(UnreadableInput, match="no step column"):
        open_run(path)


def test_lists_nested_without_end_are_none(tmp_path: Path) -> None:
    for text in ('[{"a":' * 30_000, '{"a":' * 30_000, '[{"step":' + "[" * 60_000):
        with pytest.raises(UnreadableInput):
            open_run(write(tmp_path, "x.json", text))


def test_a_line_that_is_being_written_does_not_hide_the_format(tmp_path: Path) -> None:
    run = open_run(write(tmp_path, "x.log", jsonl_rows() + '{"step": 5, "lo'))
    assert losses(run) == LOSSES and run.source == "jsonl"
    run = open_run(write(tmp_path, "y.log", _csv() + "5"))
    assert losses(run) == LOSSES and run.source == "csv"


def test_keras_history_in_pandas_spelling(tmp_path: Path) -> None:
    columns = {"loss": LOSSES, "val_loss": dict.fromkeys(LOSSES, 3.0)}
    run = open_run(write(tmp_path, "history.json", json.dumps(columns)))
    assert losses(run) == LOSSES and run.columns == ("loss", "eval_loss")
    assert "history.json: its steps are the positions in its lists, from 0" in run.notes


def test_a_history_whose_numbers_were_written_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, "history.json", json.dumps({"loss": [str(loss) for loss in LOSSES.values()]}))
    assert losses(open_run(path)) == LOSSES


def test_lists_of_another_length_count_something_else(tmp_path: Path) -> None:
    lists = {"train_loss": [2.0 - t / 40 for t in range(40)], "lr": [0.1] * 39, "val_acc": [0.5] * 4, "note": "x"}
    run = open_run(write(tmp_path, "history.json", json.dumps(lists)))
    assert len(losses(run)) == 40 and run.columns == ("loss", "lr") and run.other_columns == ()
    assert "not read, because they have not 40 values as the others: val_acc" in "".join(run.notes)
    lists |= {"epoch": list(range(1, 41))}
    assert open_run(write(tmp_path, "history.json", json.dumps(lists))).row_steps.tolist() == list(range(1, 41))
