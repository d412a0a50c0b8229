"""Input that is refused, with one message that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from postmortem.errors import UnreadableInput, UsageError
from postmortem.sources import open_run
from tests.sources.helpers import ESCAPE, jsonl_rows, write


def _refused(path: Path, *words: str) -> UnreadableInput:
    with pytest.raises(UnreadableInput) as caught:
        open_run(path)
    message = str(caught.value)
    assert "\n" not in message and "\x1b" not in message
    for word in words:
        assert word in message, message
    return caught.value


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    _refused(tmp_path / "absent", "no such file")
    _refused(tmp_path / "a\0b", "no such file")
    _refused(tmp_path, "empty")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.parquet", "trainer_state.json"])
def test_empty_and_junk_files(tmp_path: Path, name: str) -> None:
    _refused(write(tmp_path, name, b""), name, "empty")
    _refused(write(tmp_path, name, bytes(range(256)) * 40), name)
    _refused(write(tmp_path, name, b"\x00" * 300), name)


def test_an_unknown_format_lists_what_was_tried(tmp_path: Path) -> None:
    _refused(write(tmp_path, "x.xyz", b"hello"), "x.xyz", "CSV", "Parquet", "trainer_state.json", "metrics/")


def test_corrupt_parquet(tmp_path: Path) -> None:
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = tmp_path / "metrics.parquet"
    pq.write_table(pa.table({"step": list(range(1000)), "loss": [1.0] * 1000}), path)
    data = path.read_bytes()
    _refused(write(tmp_path, "cut.parquet", data[: len(data) // 2]), "cut.parquet")
    broken = write(tmp_path, "broken.parquet", data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(UnreadableInput):
        open_run(broken).series("loss")


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
    assert _refused(write(tmp_path, name, data[name]), f"{name}:3", "UTF-8").line == 3
    _refused(write(tmp_path, name, "step,loss\n0,1\n".encode("utf-16")), name)


def test_no_step_column_lists_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", f"moment,{ESCAPE}evil,loss\n1,2,3\n")
    message = str(_refused(path, "no step column", "moment", "--map step="))
    assert "\x1b" not in message


def test_no_rows(tmp_path: Path) -> None:
    _refused(write(tmp_path, "x.csv", "step,loss\n"), "no rows")
    _refused(write(tmp_path, "y.csv", "\n\n"), "no rows")
    _refused(write(tmp_path, "z.csv", "# run 3\nstep,loss\n0,1\n1,2\n"), "no row has as many fields as its header")
    _refused(write(tmp_path, "x.json", "[]"), "no rows")
    _refused(write(tmp_path, "y.json", '{"log_history": []}'), "no rows")
    _refused(write(tmp_path, "z.csv", "step,loss\nabc,1\n-1,2\n"), "step")
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    _refused(tmp_path / "run", "no rows")


def test_json_that_is_broken_or_bottomless(tmp_path: Path) -> None:
    assert _refused(write(tmp_path, "x.json", '[\n{"step": 1},\n{'), "x.json:3", "JSON").line == 3
    _refused(write(tmp_path, "x.json", "[" * 100_000), "nested")
    _refused(write(tmp_path, "x.json", '{"log_history": 3}'), "rows")
    _refused(write(tmp_path, "x.jsonl", "hello\nworld\n"), "x.jsonl:1", "JSON object")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "step,loss\n0,1\n")
    path.chmod(0)
    _refused(path, "x.csv", "permission")


def test_a_directory_or_pipe_where_a_file_is_expected(tmp_path: Path) -> None:
    (tmp_path / "run" / "metrics.csv").mkdir(parents=True)
    _refused(tmp_path / "run")
    write(tmp_path, "other/metrics.jsonl", jsonl_rows())
    (tmp_path / "other" / "run.json").mkdir()
    _refused(tmp_path / "other", "run.json", "directory")
    os.mkfifo(tmp_path / "pipe.csv")
    _refused(tmp_path / "pipe.csv", "regular")


def test_several_logs_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "step,loss\n0,1\n")
    write(tmp_path, "b.jsonl", jsonl_rows())
    _refused(tmp_path, "a.csv", "b.jsonl")


@pytest.mark.parametrize("text", ["[1]", "{", "hello", "3", "\xff"])
def test_a_manifest_that_is_no_object(tmp_path: Path, text: str) -> None:
    write(tmp_path, "metrics.jsonl", jsonl_rows())
    write(tmp_path, "run.json", text.encode("latin-1"))
    _refused(tmp_path, "run.json")


def test_yaml_is_loaded_safely(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", jsonl_rows())
    write(tmp_path, "run.yaml", "seed: 3\nconfig: {lr: 0.1}\n")
    assert open_run(tmp_path).manifest.seed == 3
    write(tmp_path, "run.yaml", f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/pwned']\n")
    _refused(tmp_path, "run.yaml")
    assert not (tmp_path / "pwned").exists()


def test_a_journal_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", jsonl_rows())
    write(tmp_path, "journal.jsonl", "what happened\nwas this\n")
    _refused(tmp_path, "journal.jsonl")
    write(tmp_path, "journal.jsonl", "")
    assert open_run(tmp_path).journal == ()


@pytest.mark.parametrize("path", ["../outside.pt", "/etc/passwd", "rollback/../../outside.pt", "a\0b"])
def test_a_checkpoint_path_that_leads_outside(tmp_path: Path, path: str) -> None:
    run = tmp_path / "run"
    write(tmp_path, "outside.pt", "x")
    write(run, "metrics.jsonl", jsonl_rows())
    write(run, "journal.jsonl", json.dumps({"event": "checkpoint", "step": 3, "role": "rollback", "path": path}) + "\n")
    if "\0" in path:
        _refused(run, "journal.jsonl:1")
    else:
        assert _refused(run, "journal.jsonl:1", "outside").exit_code == 3


@pytest.mark.parametrize("link", ["rollback/step-00000003.pt", "recovery/anything", "best-k", "latest"])
def test_a_link_that_leads_outside(tmp_path: Path, link: str) -> None:
    run = tmp_path / "run"
    write(tmp_path, "outside/step-00000001.pt", "x")
    write(run, "metrics.jsonl", jsonl_rows())
    (run / link).parent.mkdir(exist_ok=True)
    (run / link).symlink_to(tmp_path / "outside")
    _refused(run, "outside the run")


def test_a_vocabulary_outside(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", jsonl_rows())
    write(tmp_path, "run.json", '{"vocab": "../../vocab.json"}')
    _refused(tmp_path, "run.json", "outside")


def test_map_errors_are_usage_errors(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "step,a,b\n0,1,2\n")
    with pytest.raises(UsageError, match="step, a, b"):
        open_run(path, {"loss": "c"})
    with pytest.raises(UsageError, match="no canonical column"):
        open_run(path, {"losss": "a"})


@pytest.mark.parametrize("make", [list, dict, str])
def test_a_broken_vocabulary(tmp_path: Path, make: Callable[[], object]) -> None:
    write(tmp_path, "metrics.jsonl", jsonl_rows())
    write(tmp_path, "run.json", '{"vocab": "vocab.json"}')
    assert open_run(tmp_path).vocab() is None
    write(tmp_path, "vocab.json", json.dumps(make()))
    with pytest.raises(UnreadableInput, match=r"vocab\.json"):
        open_run(tmp_path).vocab()
    write(tmp_path, "vocab.json", '{"tokens": ["a", "b"]}')
    assert open_run(tmp_path).vocab() == ("a", "b")


def test_bare_carriage_returns_are_named(tmp_path: Path) -> None:
    _refused(write(tmp_path, "x.csv", "step,loss\r0,1\r1,2\r"), "x.csv", "bare carriage returns")


def test_map_lists_each_column_once(tmp_path: Path) -> None:
    write(tmp_path, "metrics.csv", "step,loss\n0,1\n1,2\n")
    write(tmp_path, "batches.csv", "step,batch_hash\n0,a\n1,b\n")
    with pytest.raises(UsageError, match=r"It has: step, loss, batch_hash$"):
        open_run(tmp_path, {"loss": "nope"})


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
