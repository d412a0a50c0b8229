"""What is refused, with one message that names the file; and what is read around, with a note."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from postmortem.errors import UnreadableInput, UsageError
from postmortem.run import Run
from postmortem.sources import open_run

ESCAPE = "\x1b[31m"


def _refused(path: Path, *words: str) -> UnreadableInput:
    with pytest.raises(UnreadableInput) as caught:
        open_run(path)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message
    for word in words:
        assert word in message, message
    return caught.value


def _file(tmp_path: Path, name: str, data: str | bytes) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _rows(n: int = 5) -> str:
    return "".join(json.dumps({"step": t, "loss": 2.0 - t / 10}) + "\n" for t in range(n))


def _loss(run: Run) -> dict[int, float]:
    series = run.series("loss")
    return {} if series is None else dict(zip(series.step.tolist(), series.value.tolist(), strict=True))


# ---- refused -------------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    _refused(tmp_path / "absent", "no such file")
    _refused(tmp_path / "a\0b", "no such file")
    _refused(tmp_path, "empty")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.parquet", "trainer_state.json"])
def test_empty_and_junk_files(tmp_path: Path, name: str) -> None:
    _refused(_file(tmp_path, name, b""), name, "empty")
    _refused(_file(tmp_path, name, bytes(range(256)) * 40), name)
    _refused(_file(tmp_path, name, b"\x00" * 300), name)


def test_an_unknown_format_lists_what_was_tried(tmp_path: Path) -> None:
    _refused(_file(tmp_path, "x.xyz", b"hello"), "x.xyz", "CSV", "Parquet", "trainer_state.json", "metrics/")


def test_corrupt_parquet(tmp_path: Path) -> None:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = tmp_path / "metrics.parquet"
    pq.write_table(pa.table({"step": list(range(1000)), "loss": [1.0] * 1000}), path)
    data = path.read_bytes()
    _refused(_file(tmp_path, "cut.parquet", data[: len(data) // 2]), "cut.parquet")
    with pytest.raises(UnreadableInput):
        broken = _file(tmp_path, "broken.parquet", data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
        run = open_run(broken)
        run.series("loss")


def test_parquet_text_that_is_no_utf8(tmp_path: Path) -> None:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    offsets, data = np.array([0, 2, 4], np.int32), b"\xff\xfeok"
    text = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    pq.write_table(pa.table({"step": [0, 1], "loss": [1.0, 2.0], "source": text}), tmp_path / "x.parquet")
    with pytest.raises(UnreadableInput, match=r"x\.parquet"):
        open_run(tmp_path / "x.parquet").labels("source")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_text_that_is_not_utf8_names_the_line(tmp_path: Path, name: str) -> None:
    data = {
        "x.csv": b"step,loss\n0,1\n1,\xff\xfe\n2,1\n",
        "x.jsonl": b'{"step":0,"loss":1}\n{"step":0}\n{"a":"\xff"}\n{}\n',
    }
    assert _refused(_file(tmp_path, name, data[name]), f"{name}:3", "UTF-8").line == 3
    _refused(_file(tmp_path, name, "step,loss\n0,1\n".encode("utf-16")), name)


def test_no_step_column_lists_the_columns(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.csv", f"epoch,{ESCAPE}evil,loss\n1,2,3\n")
    message = str(_refused(path, "no step column", "epoch", "--map step="))
    assert "\x1b" not in message


def test_no_rows(tmp_path: Path) -> None:
    _refused(_file(tmp_path, "x.csv", "step,loss\n"), "no rows")
    _refused(_file(tmp_path, "y.csv", "\n\n"), "no rows")
    _refused(_file(tmp_path, "x.json", "[]"), "no rows")
    _refused(_file(tmp_path, "y.json", '{"log_history": []}'), "no rows")
    _refused(_file(tmp_path, "z.csv", "step,loss\nabc,1\n-1,2\n"), "step")
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    _refused(tmp_path / "run", "no rows")


def test_json_that_is_broken_or_bottomless(tmp_path: Path) -> None:
    assert _refused(_file(tmp_path, "x.json", '[\n{"step": 1},\n{'), "x.json:3", "JSON").line == 3
    _refused(_file(tmp_path, "x.json", "[" * 100_000), "nested")
    _refused(_file(tmp_path, "x.json", '{"log_history": 3}'), "rows")
    _refused(_file(tmp_path, "x.jsonl", "hello\nworld\n"), "x.jsonl:1", "JSON object")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.csv", "step,loss\n0,1\n")
    path.chmod(0)
    _refused(path, "x.csv", "permission")


def test_a_directory_or_pipe_where_a_file_is_expected(tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics.csv").mkdir(parents=True)
    _refused(tmp_path / "run")
    _file(tmp_path, "other/metrics.jsonl", _rows())
    (tmp_path / "other" / "run.json").mkdir()
    _refused(tmp_path / "other", "run.json", "directory")
    os.mkfifo(tmp_path / "pipe.csv")
    _refused(tmp_path / "pipe.csv", "regular")


def test_several_logs_in_a_folder(tmp_path: Path) -> None:
    _file(tmp_path, "a.csv", "step,loss\n0,1\n")
    _file(tmp_path, "b.jsonl", _rows())
    _refused(tmp_path, "a.csv", "b.jsonl")


@pytest.mark.parametrize("text", ["[1]", "{", "hello", "3", "\xff"])
def test_a_manifest_that_is_no_object(tmp_path: Path, text: str) -> None:
    _file(tmp_path, "metrics.jsonl", _rows())
    _file(tmp_path, "run.json", text.encode("latin-1"))
    _refused(tmp_path, "run.json")


def test_yaml_is_loaded_safely(tmp_path: Path) -> None:
    _file(tmp_path, "metrics.jsonl", _rows())
    _file(tmp_path, "run.yaml", "seed: 3\nconfig: {lr: 0.1}\n")
    assert open_run(tmp_path).manifest.seed == 3
    _file(tmp_path, "run.yaml", f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/pwned']\n")
    _refused(tmp_path, "run.yaml")
    assert not (tmp_path / "pwned").exists()


def test_a_journal_that_is_none(tmp_path: Path) -> None:
    _file(tmp_path, "metrics.jsonl", _rows())
    _file(tmp_path, "journal.jsonl", "what happened\nwas this\n")
    _refused(tmp_path, "journal.jsonl")
    _file(tmp_path, "journal.jsonl", "")
    assert open_run(tmp_path).journal == ()


@pytest.mark.parametrize("path", ["../outside.pt", "/etc/passwd", "rollback/../../outside.pt", "a\0b"])
def test_a_checkpoint_path_that_leads_outside(tmp_path: Path, path: str) -> None:
    run = tmp_path / "run"
    _file(tmp_path, "outside.pt", "x")
    _file(run, "metrics.jsonl", _rows())
    _file(run, "journal.jsonl", json.dumps({"event": "checkpoint", "step": 3, "role": "rollback", "path": path}) + "\n")
    if "\0" in path:
        _refused(run, "journal.jsonl:1")
    else:
        assert _refused(run, "journal.jsonl:1", "outside").exit_code == 3


@pytest.mark.parametrize("link", ["rollback/step-00000003.pt", "recovery/anything", "best-k", "latest"])
def test_a_link_that_leads_outside(tmp_path: Path, link: str) -> None:
    run = tmp_path / "run"
    _file(tmp_path, "outside/step-00000001.pt", "x")
    _file(run, "metrics.jsonl", _rows())
    (run / link).parent.mkdir(exist_ok=True)
    (run / link).symlink_to(tmp_path / "outside")
    _refused(run, "outside the run")


def test_a_vocabulary_outside(tmp_path: Path) -> None:
    _file(tmp_path, "metrics.jsonl", _rows())
    _file(tmp_path, "run.json", '{"vocab": "../../vocab.json"}')
    _refused(tmp_path, "run.json", "outside")


def test_map_errors_are_usage_errors(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.csv", "step,a,b\n0,1,2\n")
    with pytest.raises(UsageError, match="step, a, b"):
        open_run(path, {"loss": "c"})
    with pytest.raises(UsageError, match="no canonical column"):
        open_run(path, {"losss": "a"})


# ---- noted and carried on ------------------------------------------------------------------------------------------


def _noted(path: Path, *words: str) -> Run:
    run = open_run(path)
    text = "\n".join(run.notes)
    for word in words:
        assert word in text, text
    assert "\x1b" not in text
    return run


def test_torn_last_line(tmp_path: Path) -> None:
    run = _noted(_file(tmp_path, "x.jsonl", _rows() + '{"step": 5, "lo'), "x.jsonl:6", "torn")
    assert len(_loss(run)) == 5
    run = _noted(_file(tmp_path, "y.jsonl", _rows().encode() + b'{"step": 5, "n": "\xc3'), "y.jsonl:6", "torn")
    assert len(_loss(run)) == 5
    run = _noted(_file(tmp_path, "x.csv", "step,loss,lr\n0,1,1\n1,2,1\n2,3"), "x.csv:4", "torn")
    assert _loss(run) == {0: 1.0, 1: 2.0}


def test_bad_lines_in_the_middle(tmp_path: Path) -> None:
    data = _rows(2) + "oops\n[1, 2]\n\n" + '{"step": 2, "loss": 1.0}\n' + "{" * 5000 + "\n" + '{"a":' * 5000 + "\n"
    run = _noted(_file(tmp_path, "x.jsonl", data), "x.jsonl:3", "4 lines")
    assert len(_loss(run)) == 3
    run = _noted(_file(tmp_path, "x.csv", "step,loss\n0,1\n1,2,3\n2\n3,4\n"), "x.csv:3", "2 rows")
    assert _loss(run) == {0: 1.0, 3: 4.0}


def test_null_and_non_finite_are_kept_apart(tmp_path: Path) -> None:
    expected = {0: 1.0, 1: math.nan, 2: math.inf, 3: -math.inf, 4: math.nan}
    rows = '{"step":0,"loss":1}\n{"step":1,"loss":NaN}\n{"step":2,"loss":"Infinity"}\n{"step":3,"loss":-Infinity}\n'
    rows += '{"step":4,"loss":"nan"}\n{"step":5,"loss":null}\n{"step":6,"loss":"None"}\n{"step":7}\n'
    csv = "step,loss\n0,1\n1,NaN\n2,Infinity\n3,-inf\n4,nan\n5,\n6,None\n7,N/A\n"
    for path in (_file(tmp_path, "x.jsonl", rows), _file(tmp_path, "x.csv", csv)):
        run = open_run(path)
        np.testing.assert_equal(_loss(run), expected)
        assert run.row_steps.tolist() == list(range(8))


def test_steps_as_floats_and_text(tmp_path: Path) -> None:
    data = "step,loss\n0.0,1\n1.0,2\n 2 ,3\n12.5,9\n-3,9\nabc,9\n,9\n1e3,4\n99999999999999999999999,9\nnan,9\n"
    run = _noted(_file(tmp_path, "x.csv", data), "6 rows without a usable step", "data row 4")
    assert _loss(run) == {0: 1.0, 1: 2.0, 2: 3.0, 1000: 4.0}
    rows = (
        '{"step":"12","loss":1}\n{"step":13.0,"loss":2}\n{"step":'
        + "9" * 5000
        + ',"loss":3}\n{"step":14,"loss":1e999}\n'
    )
    run = _noted(_file(tmp_path, "x.jsonl", rows), "1 row without a usable step")
    assert _loss(run) == {12: 1.0, 13: 2.0, 14: math.inf}


def test_huge_integers_as_values(tmp_path: Path) -> None:
    rows = '{"step":0,"loss":' + "9" * 400 + '}\n{"step":1,"loss":123456789012345678901234567890}\n'
    assert _loss(open_run(_file(tmp_path, "x.jsonl", rows))) == {0: math.inf, 1: 123456789012345678901234567890.0}


def test_unsorted_and_duplicated_steps(tmp_path: Path) -> None:
    run = _noted(_file(tmp_path, "x.csv", "step,loss\n2,3\n0,1\n1,2\n"), "sorted")
    assert _loss(run) == {0: 1.0, 1: 2.0, 2: 3.0}
    run = _noted(_file(tmp_path, "x.csv", "step,loss\n0,1\n1,2\n1,5\n2,3\n"), "1 row", "written last")
    assert _loss(run) == {0: 1.0, 1: 5.0, 2: 3.0}


def test_train_and_eval_rows_of_one_step_merge(tmp_path: Path) -> None:
    rows = "step,loss,eval_loss\n0,1,\n1,2,\n1,,7\n2,3,\n0,,6\n"
    run = open_run(_file(tmp_path, "x.csv", rows))
    held = run.series("eval_loss")
    assert held is not None and held.step.tolist() == [0, 1] and held.value.tolist() == [6.0, 7.0]
    assert _loss(run) == {0: 1.0, 1: 2.0, 2: 3.0} and run.notes == () and len(run.segments) == 1


def test_a_foreign_rewind_is_a_discarded_segment(tmp_path: Path) -> None:
    steps = [*range(30), *range(20, 40)]
    rows = "".join(f"{s},{i}\n" for i, s in enumerate(steps))
    run = _noted(_file(tmp_path, "x.csv", "step,loss\n" + rows), "resume")
    assert [(s.first_step, s.last_step, s.kept_until, s.discarded) for s in run.segments] == [
        (0, 29, 20, True),
        (20, 39, 40, False),
    ]
    assert _loss(run)[25] == 35.0
    before = run.series("loss", attempt=0)
    assert before is not None and before.at(25) == 25.0 and len(before) == 30


def test_no_loss_column(tmp_path: Path) -> None:
    run = _noted(_file(tmp_path, "x.csv", "step,grad_norm\n0,1\n1,2\n"), "no loss column")
    assert run.series("loss") is None and run.columns == ("grad_norm",)


def test_placeholders_are_missing_panels(tmp_path: Path) -> None:
    data = "step,loss,grad_norm,loss_scale\n" + "".join(f"{t},1,0.000,-1.0\n" for t in range(5))
    run = _noted(_file(tmp_path, "x.csv", data), "grad_norm is 0 throughout", "loss_scale is -1 throughout")
    assert run.columns == ("loss",) and run.series("grad_norm") is None
    data = "step,loss,grad_norm\n0,1,0\n1,1,NaN\n2,1,0\n"
    assert "grad_norm" in open_run(_file(tmp_path, "y.csv", data)).columns


def test_bom_crlf_and_odd_headers(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfstep,loss,,loss,"a,b"\r\n0,1,x,9,"q,r"\r\n1,2,y,9,"s"\r\n'
    run = _noted(_file(tmp_path, "x.csv", data), "column 3 has no name", "loss stands twice")
    assert _loss(run) == {0: 1.0, 1: 2.0}
    assert "a,b" in run.other_columns
    run = open_run(_file(tmp_path, "x.jsonl", b'\xef\xbb\xbf{"step":0,"loss":1}\r\n{"step":1,"loss":2}\r\n'))
    assert len(_loss(run)) == 2
    assert _loss(open_run(_file(tmp_path, "x.tsv", "step\tloss\n0\t1\n"))) == {0: 1.0}
    assert _loss(open_run(_file(tmp_path, "y.csv", "step;loss\n0;1\n"))) == {0: 1.0}


def test_a_repeated_header_line(tmp_path: Path) -> None:
    run = _noted(_file(tmp_path, "x.csv", "step,loss\n0,1\nstep,loss\n1,2\n"), "1 row without a usable step")
    assert _loss(run) == {0: 1.0, 1: 2.0}


def test_nested_values(tmp_path: Path) -> None:
    rows = "".join(
        json.dumps({"step": t, "train": {"loss": t, "deep": {"er": 1}}, "x": [[1], {"a": 2}]}) + "\n" for t in range(3)
    )
    run = open_run(_file(tmp_path, "x.jsonl", rows))
    assert _loss(run) == {0: 0.0, 1: 1.0, 2: 2.0} and "train/deep/er" not in run.other_columns


def test_too_many_columns(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"step": t, "loss": 1.0, f"c{t}": 1}) + "\n" for t in range(6_000))
    run = _noted(_file(tmp_path, "x.jsonl", rows), "columns beyond")
    assert len(_loss(run)) == 6_000


def test_names_come_out_harmless(tmp_path: Path) -> None:
    path = _file(tmp_path, f"x{ESCAPE}.csv", f"step,train_loss,lm loss{ESCAPE},lm loss\nabc,1,2,x\n1,2,3,y\n")
    run = open_run(path)
    assert run.notes and all("\x1b" not in note for note in run.notes)
    assert "\x1b" not in run.origin("loss") and "\x1b" not in run.id
    bad = _file(tmp_path, "run/metrics.jsonl", _rows())
    _file(tmp_path, "run/run.json", json.dumps({"id": f"a{ESCAPE}b", "seed": "x", "format_version": ESCAPE}))
    run = _noted(bad.parent, "seed", "format_version")
    assert "\x1b" not in run.id and run.manifest.seed is None


def test_unknown_events_are_kept_and_bad_ones_noted(tmp_path: Path) -> None:
    _file(tmp_path, "metrics.jsonl", _rows())
    _file(
        tmp_path,
        "journal.jsonl",
        '{"event":"x","step":"3","k":1}\n{"step":1}\noops\n{"event":"run_end","step":1.5}\n{"ev',
    )
    run = _noted(tmp_path, "journal.jsonl:3", "journal.jsonl:2", "torn")
    assert [(e.event, e.step, dict(e.keys), e.line) for e in run.journal] == [
        ("x", 3, {"k": 1}, 1),
        ("run_end", None, {}, 4),
    ]


@pytest.mark.parametrize("make", [list, dict, str])
def test_a_broken_vocabulary(tmp_path: Path, make: Callable[[], object]) -> None:
    _file(tmp_path, "metrics.jsonl", _rows())
    _file(tmp_path, "run.json", '{"vocab": "vocab.json"}')
    assert open_run(tmp_path).vocab() is None
    _file(tmp_path, "vocab.json", json.dumps(make()))
    with pytest.raises(UnreadableInput, match=r"vocab\.json"):
        open_run(tmp_path).vocab()
    _file(tmp_path, "vocab.json", '{"tokens": ["a", "b"]}')
    assert open_run(tmp_path).vocab() == ("a", "b")


def test_steps_in_text_or_with_a_point_are_noted(tmp_path: Path) -> None:
    rows = '{"global_step":"0","loss":1}\n{"global_step":1.0,"loss":2}\n'
    run = _noted(_file(tmp_path, "x.jsonl", rows), "column global_step counts steps in text or with a decimal point")
    assert _loss(run) == {0: 1.0, 1: 2.0}
    assert open_run(_file(tmp_path, "y.jsonl", _rows())).notes == ()


def test_blank_and_non_finite_losses_are_noted(tmp_path: Path) -> None:
    rows = '{"step":0,"loss":1}\n{"step":1,"loss":null}\n{"step":2,"loss":"NaN"}\n{"step":3,"loss":"Infinity"}\n'
    _noted(
        _file(tmp_path, "x.jsonl", rows),
        "x.jsonl: loss is blank in 1 of 4 steps, the first is 1",
        "x.jsonl: loss is NaN or infinite in 2 of 3 steps, the first is 2",
    )


def test_gaps_are_noted_and_a_change_of_pace_is_none(tmp_path: Path) -> None:
    def log(steps: list[int]) -> Path:
        return _file(tmp_path, "x.csv", "step,loss\n" + "".join(f"{t},1\n" for t in steps))

    _noted(log([*range(20), *range(50, 80)]), "no row between steps 19 and 50")
    _noted(log([*range(20), *range(50, 80), *range(100, 120)]), "2 gaps in the steps, the widest between steps 19 and")
    assert open_run(log([*range(20), *range(20, 400, 10)])).notes == ()


def test_a_csv_without_a_last_line_end_may_be_torn(tmp_path: Path) -> None:
    run = _noted(_file(tmp_path, "x.csv", "step,loss\n0,1.25\n1,1."), "x.csv:3: the last line has no line end")
    assert _loss(run) == {0: 1.25, 1: 1.0}


def test_bare_carriage_returns_are_named(tmp_path: Path) -> None:
    _refused(_file(tmp_path, "x.csv", "step,loss\r0,1\r1,2\r"), "x.csv", "bare carriage returns")


def test_map_lists_each_column_once(tmp_path: Path) -> None:
    _file(tmp_path, "metrics.csv", "step,loss\n0,1\n1,2\n")
    _file(tmp_path, "batches.csv", "step,batch_hash\n0,a\n1,b\n")
    with pytest.raises(UsageError, match=r"It has: step, loss, batch_hash$"):
        open_run(tmp_path, {"loss": "nope"})


def test_text_where_a_number_belongs_is_noted(tmp_path: Path) -> None:
    rows = "step;train/loss;source\n" + "".join(f"{t};2,{t};a\n" for t in range(5))
    run = _noted(_file(tmp_path, "x.csv", rows), "x.csv: train/loss holds text where loss is a number, as in '2,0'")
    assert run.columns == ("source",) and len(run.notes) == 1


def test_a_part_that_leads_outside_the_run_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.parquet"
    outside.write_bytes(b"PAR1")
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    (tmp_path / "run" / "metrics" / "part-000001.parquet").symlink_to(outside)
    with pytest.raises(UnreadableInput, match=r"run/metrics/part-000001\.parquet: .*leads outside the run"):
        open_run(tmp_path / "run")


def test_a_message_names_the_run_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "exp7").mkdir()
    (tmp_path / "exp7" / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UnreadableInput, match=r"exp7/metrics\.csv: no step column"):
        open_run(tmp_path / "exp7")
    with pytest.raises(UnreadableInput, match=r"exp7/metrics\.csv: no step column"):
        open_run(tmp_path / "exp7" / "metrics.csv")
