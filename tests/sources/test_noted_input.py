"""Input that is skipped with a note, and odd input that is read as it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from postmortem.run import Run
from postmortem.sources import open_run
from tests.sources.helpers import ESCAPE, jsonl_rows, losses, write


def _noted(path: Path, *words: str) -> Run:
    run = open_run(path)
    text = "\n".join(run.notes)
    for word in words:
        assert word in text, text
    assert "\x1b" not in text
    return run


def test_torn_last_line(tmp_path: Path) -> None:
    run = _noted(write(tmp_path, "x.jsonl", jsonl_rows() + '{"step": 5, "lo'), "x.jsonl:6", "torn")
    assert len(losses(run)) == 5
    run = _noted(write(tmp_path, "y.jsonl", jsonl_rows().encode() + b'{"step": 5, "n": "\xc3'), "y.jsonl:6", "torn")
    assert len(losses(run)) == 5
    run = _noted(write(tmp_path, "x.csv", "step,loss,lr\n0,1,1\n1,2,1\n2,3"), "x.csv:4", "torn")
    assert losses(run) == {0: 1.0, 1: 2.0}


def test_a_last_line_torn_within_a_character_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = open_run(write(tmp_path, "x.csv", "step,loss\n0,1\n1,2\n2,3,\xe9".encode()[:-1]))
    assert losses(run) == {0: 1.0, 1: 2.0} and run.notes[0] == "x.csv:4: the last line is torn and was skipped"
    assert capfd.readouterr().err == ""


def test_bad_lines_in_the_middle(tmp_path: Path) -> None:
    data = jsonl_rows(2) + "oops\n[1, 2]\n\n" + '{"step": 2, "loss": 1.0}\n' + "{" * 5000 + "\n" + '{"a":' * 5000 + "\n"
    run = _noted(write(tmp_path, "x.jsonl", data), "x.jsonl:3", "4 lines")
    assert len(losses(run)) == 3
    run = _noted(write(tmp_path, "x.csv", "step,loss\n0,1\n1,2,3\n2\n3,4\n"), "x.csv:3", "2 rows")
    assert losses(run) == {0: 1.0, 3: 4.0}


def test_null_and_non_finite_are_kept_apart(tmp_path: Path) -> None:
    expected = {0: 1.0, 1: math.nan, 2: math.inf, 3: -math.inf, 4: math.nan}
    rows = '{"step":0,"loss":1}\n{"step":1,"loss":NaN}\n{"step":2,"loss":"Infinity"}\n{"step":3,"loss":-Infinity}\n'
    rows += '{"step":4,"loss":"nan"}\n{"step":5,"loss":null}\n{"step":6,"loss":"None"}\n{"step":7}\n'
    csv = "step,loss\n0,1\n1,NaN\n2,Infinity\n3,-inf\n4,nan\n5,\n6,None\n7,N/A\n"
    for path in (write(tmp_path, "x.jsonl", rows), write(tmp_path, "x.csv", csv)):
        run = open_run(path)
        np.testing.assert_equal(losses(run), expected)
        assert run.row_steps.tolist() == list(range(8))


def test_steps_as_floats_and_text(tmp_path: Path) -> None:
    data = "step,loss\n0.0,1\n1.0,2\n 2 ,3\n12.5,9\n-3,9\nabc,9\n,9\n1e3,4\n99999999999999999999999,9\nnan,9\n"
    run = _noted(write(tmp_path, "x.csv", data), "6 rows without a usable step", "data row 4")
    assert losses(run) == {0: 1.0, 1: 2.0, 2: 3.0, 1000: 4.0}
    rows = (
        '{"step":"12","loss":1}\n{"step":13.0,"loss":2}\n{"step":'
        + "9" * 5000
        + ',"loss":3}\n{"step":14,"loss":1e999}\n'
    )
    run = _noted(write(tmp_path, "x.jsonl", rows), "1 row without a usable step")
    assert losses(run) == {12: 1.0, 13: 2.0, 14: math.inf}


def test_huge_integers_as_values(tmp_path: Path) -> None:
    rows = '{"step":0,"loss":' + "9" * 400 + '}\n{"step":1,"loss":123456789012345678901234567890}\n'
    assert losses(open_run(write(tmp_path, "x.jsonl", rows))) == {0: math.inf, 1: 123456789012345678901234567890.0}


def test_unsorted_and_duplicated_steps(tmp_path: Path) -> None:
    run = _noted(write(tmp_path, "x.csv", "step,loss\n2,3\n0,1\n1,2\n"), "sorted")
    assert losses(run) == {0: 1.0, 1: 2.0, 2: 3.0}
    run = _noted(write(tmp_path, "x.csv", "step,loss\n0,1\n1,2\n1,5\n2,3\n"), "1 row", "written last")
    assert losses(run) == {0: 1.0, 1: 5.0, 2: 3.0}


def test_train_and_eval_rows_of_one_step_merge(tmp_path: Path) -> None:
    rows = "step,loss,eval_loss\n0,1,\n1,2,\n1,,7\n2,3,\n0,,6\n"
    run = open_run(write(tmp_path, "x.csv", rows))
    held = run.series("eval_loss")
    assert held is not None and held.step.tolist() == [0, 1] and held.value.tolist() == [6.0, 7.0]
    assert losses(run) == {0: 1.0, 1: 2.0, 2: 3.0} and run.notes == () and len(run.segments) == 1


def test_a_foreign_rewind_is_a_discarded_segment(tmp_path: Path) -> None:
    steps = [*range(30), *range(20, 40)]
    rows = "".join(f"{s},{i}\n" for i, s in enumerate(steps))
    run = _noted(write(tmp_path, "x.csv", "step,loss\n" + rows), "resume")
    assert [(s.first_step, s.last_step, s.kept_until, s.discarded) for s in run.segments] == [
        (0, 29, 20, True),
        (20, 39, 40, False),
    ]
    assert losses(run)[25] == 35.0
    before = run.series("loss", attempt=0)
    assert before is not None and before.at(25) == 25.0 and len(before) == 30


def test_no_loss_column(tmp_path: Path) -> None:
    run = _noted(write(tmp_path, "x.csv", "step,grad_norm\n0,1\n1,2\n"), "no loss column")
    assert run.series("loss") is None and run.columns == ("grad_norm",)


def test_placeholders_are_missing_panels(tmp_path: Path) -> None:
    data = "step,loss,grad_norm,loss_scale\n" + "".join(f"{t},{9 - t},0.000,-1.0\n" for t in range(5))
    run = _noted(write(tmp_path, "x.csv", data), "grad_norm is 0 in every row", "loss_scale is -1 in every row")
    assert run.columns == ("loss",) and run.series("grad_norm") is None
    data = "step,loss,grad_norm\n0,1,0\n1,1,NaN\n2,1,0\n"
    assert "grad_norm" in open_run(write(tmp_path, "y.csv", data)).columns


def test_a_gradient_of_0_is_measured_where_nothing_is_trained(tmp_path: Path) -> None:
    for name, slope, lr in (("a.csv", 1, 0.0), ("b.csv", 0, 0.1)):
        rows = "".join(f"{t},{9 - slope * t},{lr},0.0,-1\n" for t in range(5))
        run = open_run(write(tmp_path, name, "step,loss,lr,grad_norm,loss_scale\n" + rows))
        assert run.columns == ("loss", "lr", "grad_norm")


def test_bom_crlf_and_odd_headers(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfstep,loss,,loss,"a,b"\r\n0,1,x,9,"q,r"\r\n1,2,y,9,"s"\r\n'
    run = _noted(write(tmp_path, "x.csv", data), "column 3 has no name", "loss appears twice")
    assert losses(run) == {0: 1.0, 1: 2.0}
    assert "a,b" in run.other_columns
    run = open_run(write(tmp_path, "x.jsonl", b'\xef\xbb\xbf{"step":0,"loss":1}\r\n{"step":1,"loss":2}\r\n'))
    assert len(losses(run)) == 2
    assert losses(open_run(write(tmp_path, "x.tsv", "step\tloss\n0\t1\n"))) == {0: 1.0}
    assert losses(open_run(write(tmp_path, "y.csv", "step;loss\n0;1\n"))) == {0: 1.0}


def test_a_repeated_header_line(tmp_path: Path) -> None:
    run = _noted(write(tmp_path, "x.csv", "step,loss\n0,1\nstep,loss\n1,2\n"), "1 row without a usable step")
    assert losses(run) == {0: 1.0, 1: 2.0}


def test_nested_values(tmp_path: Path) -> None:
    rows = "".join(
        json.dumps({"step": t, "train": {"loss": t, "deep": {"er": 1}}, "x": [[1], {"a": 2}]}) + "\n" for t in range(3)
    )
    run = open_run(write(tmp_path, "x.jsonl", rows))
    assert losses(run) == {0: 0.0, 1: 1.0, 2: 2.0} and "train/deep/er" not in run.other_columns


def test_too_many_columns(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"step": t, "loss": 1.0, f"c{t}": 1}) + "\n" for t in range(6_000))
    run = _noted(write(tmp_path, "x.jsonl", rows), "columns beyond")
    assert len(losses(run)) == 6_000


def test_names_come_out_harmless(tmp_path: Path) -> None:
    path = write(tmp_path, f"x{ESCAPE}.csv", f"step,train_loss,lm loss{ESCAPE},lm loss\nabc,1,2,x\n1,2,3,y\n")
    run = open_run(path)
    assert run.notes and all("\x1b" not in note for note in run.notes)
    assert "\x1b" not in run.origin("loss") and "\x1b" not in run.id
    bad = write(tmp_path, "run/metrics.jsonl", jsonl_rows())
    write(tmp_path, "run/run.json", json.dumps({"id": f"a{ESCAPE}b", "seed": "x", "format_version": ESCAPE}))
    run = _noted(bad.parent, "seed", "format_version")
    assert "\x1b" not in run.id and run.manifest.seed is None


def test_unknown_events_are_kept_and_bad_ones_noted(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", jsonl_rows())
    write(
        tmp_path,
        "journal.jsonl",
        '{"event":"x","step":"3","k":1}\n{"step":1}\noops\n{"event":"run_end","step":1.5}\n{"ev',
    )
    run = _noted(tmp_path, "journal.jsonl:3", "journal.jsonl:2", "torn")
    assert [(e.event, e.step, dict(e.keys), e.line) for e in run.journal] == [
        ("x", 3, {"k": 1}, 1),
        ("run_end", None, {}, 4),
    ]


def test_steps_in_text_or_with_a_point_are_noted(tmp_path: Path) -> None:
    rows = '{"global_step":"0","loss":1}\n{"global_step":1.0,"loss":2}\n'
    run = _noted(write(tmp_path, "x.jsonl", rows), "column global_step counts steps in text or with a decimal point")
    assert losses(run) == {0: 1.0, 1: 2.0}
    assert open_run(write(tmp_path, "y.jsonl", jsonl_rows())).notes == ()


def test_blank_and_non_finite_losses_are_noted(tmp_path: Path) -> None:
    rows = '{"step":0,"loss":1}\n{"step":1,"loss":null}\n{"step":2,"loss":"NaN"}\n{"step":3,"loss":"Infinity"}\n'
    _noted(
        write(tmp_path, "x.jsonl", rows),
        "x.jsonl: loss is blank in 1 of 4 steps, the first is 1",
        "x.jsonl: loss is NaN or infinite in 2 of 3 steps, the first is 2",
    )


def test_gaps_are_noted_and_a_change_of_pace_is_none(tmp_path: Path) -> None:
    def log(steps: list[int]) -> Path:
        return write(tmp_path, "x.csv", "step,loss\n" + "".join(f"{t},1\n" for t in steps))

    _noted(log([*range(20), *range(50, 80)]), "no row between steps 19 and 50")
    _noted(log([*range(20), *range(50, 80), *range(100, 120)]), "2 gaps in the steps, the widest between steps 19 and")
    assert open_run(log([*range(20), *range(20, 400, 10)])).notes == ()


def test_a_csv_without_a_last_line_end_may_be_torn(tmp_path: Path) -> None:
    run = _noted(write(tmp_path, "x.csv", "step,loss\n0,1.25\n1,1."), "x.csv:3: the last line has no line end")
    assert losses(run) == {0: 1.25, 1: 1.0}


def test_text_where_a_number_belongs_is_noted(tmp_path: Path) -> None:
    rows = "step;train/loss;source\n" + "".join(f"{t};{9 - t},234;a\n" for t in range(5))
    text = "x.csv: train/loss contains text where loss is a number, as in '9,234'"
    run = _noted(write(tmp_path, "x.csv", rows), text)
    assert run.columns == ("source",) and len(run.notes) == 1


def test_decimal_commas_are_numbers(tmp_path: Path) -> None:
    rows = "step;train/loss;lr\n" + "".join(f"{t};2,{t}5;1,5e-0{9 - t}\n" for t in range(5))
    run = _noted(write(tmp_path, "x.csv", rows), "column train/loss is written with decimal commas (2,05)")
    assert losses(run) == {t: float(f"2.{t}5") for t in range(5)} and run.columns == ("loss", "lr")
