"""Every discovered source keeps the same promises, and each format returns what was logged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem.errors import PostmortemError, UnreadableInput
from postmortem.record.writer import RunWriter
from postmortem.run import Run
from postmortem.sources import Candidate, Source, csv_rows, open_run, sources
from postmortem.sources._registry import best_matches

REAL_LOGS = Path(__file__).parents[3] / "shared" / "real_logs"
ROWS = [{"step": t, "loss": 3.0 - t / 10, "lr": 1e-3, "grad_norm": 1.0 + t % 3} for t in range(12)]


def _csv(path: Path) -> Path:
    path = path.with_suffix(".csv")
    path.write_text("step,loss,lr,grad_norm\n" + "".join(",".join(map(str, row.values())) + "\n" for row in ROWS))
    return path


def _jsonl(path: Path) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def _json(path: Path) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(ROWS))
    return path


def _trainer_state(path: Path) -> Path:
    path = path.with_name("trainer_state.json")
    history = [
        {"step": r["step"], "loss": r["loss"], "learning_rate": r["lr"], "grad_norm": r["grad_norm"]} for r in ROWS
    ]
    path.write_text(json.dumps({"global_step": 12, "log_history": history}))
    return path


def _parquet(path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    _csv(path / "metrics")
    return path


def _directory(path: Path) -> Path:
    with RunWriter(path) as run:
        for row in ROWS:
            run.log(int(row["step"]), {k: v for k, v in row.items() if k != "step"})
    return path


EXAMPLES: Mapping[str, Callable[[Path], Path]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "json": _json,
    "trainer_state": _trainer_state,
    "parquet": _parquet,
    "folder": _folder,
    "run directory": _directory,
}


def _values(run: Run) -> dict[str, dict[int, float]]:
    return {
        name: dict(zip(series.step.tolist(), series.value.tolist(), strict=True))
        for name in run.columns
        if (series := run.series(name)) is not None
    }


EXPECTED = {name: {int(row["step"]): row[name] for row in ROWS} for name in ("loss", "lr", "grad_norm")}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_format_reads_the_same_run(tmp_path: Path, example: str) -> None:
    path = EXAMPLES[example](tmp_path / "demo")
    run = open_run(path)
    (source,) = (source for source in sources() if source.name == run.source)
    assert _values(run) == EXPECTED and run.notes == tuple(f"{path.name}: {limit}" for limit in source.limits)
    assert run.path == path and (run.root is None) == path.is_file()
    assert "column" in run.origin("loss") and run.id == ("trainer_state" if example == "trainer_state" else "demo")
    assert [s.attempt for s in run.segments] == [0]
    with pytest.raises(KeyError):
        run.origin("absent")
    assert run.series("absent") is None and run.labels("absent") is None and run.vocab() is None


@pytest.mark.parametrize("example", EXAMPLES)
def test_one_source_is_the_surest_of_an_example(tmp_path: Path, example: str) -> None:
    path = EXAMPLES[example](tmp_path / "demo")
    (match,) = best_matches(Candidate(path))
    assert match.match.reason
    assert open_run(path).source == match.source.name == ("Hugging Face" if example == "trainer_state" else example)


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
class TestContract:
    def test_it_names_itself(self, source: Source) -> None:
        assert source.name and (source.accepts or source.table)
        assert sum(s.name == source.name for s in sources()) == 1

    def test_it_matches_nothing_absent_and_sniffs_without_raising(self, source: Source, tmp_path: Path) -> None:
        (tmp_path / "junk.bin").write_bytes(bytes(range(256)))
        (tmp_path / "noext").write_text("step,loss\n")
        for name in ("junk.bin", "noext", "absent"):
            assert source.sniff(Candidate(tmp_path / name)) is None

    def test_it_refuses_junk_with_one_message(self, source: Source, tmp_path: Path) -> None:
        for name in ("x.csv", "x.jsonl", "x.json", "x.parquet", "trainer_state.json"):
            path = tmp_path / name
            path.write_bytes(b"[\xff\x00junk" * 50)
            if source.sniff(Candidate(path)):
                with pytest.raises(UnreadableInput) as caught:
                    source.read(path, {})
                assert name in str(caught.value)


def test_batches_and_manifest_beside_a_bare_log(tmp_path: Path) -> None:
    _jsonl(tmp_path / "metrics")
    (tmp_path / "batches.csv").write_text(
        "step,source,batch_hash,tokens\n" + "".join(f"{t},s{t % 2},{t:04},64\n" for t in range(12))
    )
    (tmp_path / "run.json").write_text('{"id": "x", "columns": {"grad_norm": "grad_norm_clipped"}, "seed": 3}')
    (tmp_path / "journal.jsonl").write_text('{"event": "run_end", "step": 11, "status": "ok"}\n')
    (tmp_path / "rollback").mkdir()
    (tmp_path / "rollback" / "step-00000010.pt").write_bytes(b"12345")
    (tmp_path / "best-k").mkdir()
    (tmp_path / "best-k" / "dev-loss-2.341-step-00000008.dcp").mkdir()
    run = open_run(tmp_path)
    assert run.columns == ("loss", "lr", "grad_norm_clipped", "batch_hash", "source", "tokens")
    hashes, tokens = run.labels("batch_hash"), run.series("tokens")
    assert hashes is not None and hashes.at(3) == "0003" and tokens is not None and tokens.at(0) == 64.0
    assert run.series("batch_hash") is None
    assert run.origin("source") == "batches.csv, column source"
    assert run.journal[0].keys["status"] == "ok" and run.id == "x"
    assert [(c.role, c.step, c.complete, c.size_bytes) for c in run.checkpoints] == [
        ("best-k", 8, False, 0),
        ("rollback", 10, True, 5),
    ]


def test_checkpoints_of_the_journal_are_found_once_and_dropped_when_deleted(tmp_path: Path) -> None:
    _jsonl(tmp_path / "metrics")
    (tmp_path / "rollback").mkdir()
    (tmp_path / "rollback" / "step-00000010.pt").write_bytes(b"1")
    (tmp_path / "own.pt").write_bytes(b"12")
    (tmp_path / "latest").symlink_to("recovery/step-1.pt")
    events = [
        {"event": "checkpoint", "step": 10, "role": "rollback", "path": "rollback/step-00000010.pt"},
        {"event": "checkpoint", "step": 5, "role": "rollback", "path": "rollback/step-00000005.pt"},
        {"event": "checkpoint", "step": 7, "role": "recovery", "path": str(tmp_path / "own.pt")},
    ]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    run = open_run(tmp_path)
    assert [(c.role, c.step) for c in run.checkpoints] == [("recovery", 7), ("rollback", 10)]
    assert any("latest" in note for note in run.notes)


def test_the_only_log_of_a_folder_is_read(tmp_path: Path) -> None:
    _jsonl(tmp_path / "train_log")
    (tmp_path / "config.json").write_text("{}")
    run = open_run(tmp_path)
    assert _values(run) == EXPECTED and any("only log of its kind" in note for note in run.notes)


def test_a_map_names_columns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,loss\n0,1,9\n1,2,9\n")
    run = open_run(tmp_path / "x.csv", {"step": "a", "loss": "b"})
    assert _values(run) == {"loss": {0: 1.0, 1: 2.0}} and run.origin("loss") == "x.csv, column b"
    other = run.series("loss/rank0")
    assert other is None and run.other_columns == ("loss",)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_map_makes_labels(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = (tmp_path / "x").with_suffix(suffix)
    rows = [{"step": t, "loss": 1.0, "digest": f"00{t}"} for t in range(3)]
    if suffix == ".csv":
        path.write_text("step,loss,digest\n" + "".join(f"{r['step']},1,{r['digest']}\n" for r in rows))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    labels = open_run(path, {"batch_hash": "digest"}).labels("batch_hash")
    assert labels is not None and labels.value.tolist() == ["000", "001", "002"]


def test_wandb_exports(tmp_path: Path) -> None:
    text = 'Step,"a - train/loss","a - train/loss__MIN","a - train/loss__MAX","a - _step"\n0,1,1,1,0\n1,2,2,2,1\n'
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert _values(open_run(path)) == {"loss": {0: 1.0, 1: 2.0}} and open_run(path).source == "W&B panel export"
    path.write_text('"Step","a - loss","a - loss__MIN","b - loss","b - loss__MIN"\n0,1,1,5,5\n1,2,2,,\n')
    with pytest.raises(UnreadableInput, match=r"a W&B export of 2 runs: a, b\. Say which one is meant: --run a"):
        open_run(path)
    assert _values(open_run(path, run="b")) == {"loss": {0: 5.0}} and open_run(path, run="b").id == "b"
    assert _values(open_run(path, {"loss": "b - loss"})) == {"loss": {0: 5.0}}


def test_parquet_columns_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from postmortem.run.parquet import ParquetColumns

    path = _directory(tmp_path / "demo")
    read: list[str] = []
    original = ParquetColumns.arrays

    def spy(self: ParquetColumns, name: str) -> object:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(ParquetColumns, "arrays", spy)
    run = open_run(path)
    run.series("loss")
    run.series("loss")
    assert read == ["step", "loss"]


def test_reading_imports_no_pandas(tmp_path: Path) -> None:
    import subprocess
    import sys

    paths = [str(EXAMPLES[name](tmp_path / name.replace(" ", "-"))) for name in EXAMPLES if name != "trainer_state"]
    code = "import sys; from postmortem.sources import open_run\n"
    code += f"for p in {paths}:\n r = open_run(p); [r.series(c) for c in r.columns]\n"
    code += "assert not {'pandas', 'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_of_rows_and_unknown_columns_change_nothing(tmp_path: Path, data: st.DataObject) -> None:
    cell = st.one_of(st.none(), st.floats(allow_nan=True, width=64), st.just(float("inf")))
    steps = data.draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=30, unique=True))
    rows = [{"step": s, "loss": data.draw(cell), "lr": data.draw(cell)} for s in sorted(steps)]
    shuffled = [row | {"zzz": 1, "other/thing": "text"} for row in data.draw(st.permutations(rows))]
    kept: list[dict[str, dict[int, float]]] = []
    for name, given_rows in (("a.jsonl", rows), ("b.jsonl", shuffled)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in given_rows))
        kept.append(_values(open_run(tmp_path / name)))
        assert len(open_run(tmp_path / name).segments) == 1
    np.testing.assert_equal(kept[0], kept[1])


def test_order_of_files_changes_nothing(tmp_path: Path) -> None:
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        for block in order:
            with RunWriter(tmp_path / name) as run:
                for t in range(block * 10, block * 10 + 10):
                    run.log(t, {"loss": float(t), "lr": 1.0 if t % 2 else None})
    assert _values(open_run(tmp_path / "a")) == _values(open_run(tmp_path / "b"))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300),
    name=st.sampled_from(["x.csv", "x.jsonl", "x.json", "x.parquet", "run.json", "journal.jsonl"]),
)
def test_any_bytes_end_in_a_run_or_one_message(tmp_path: Path, data: bytes, name: str) -> None:
    root = tmp_path / "r"
    root.mkdir(exist_ok=True)
    for old in root.iterdir():
        old.unlink()
    _jsonl(root / "metrics")
    (root / name).write_bytes(data)
    for path in (root, root / name):
        try:
            run = open_run(path)
            for column in run.columns:
                assert run.series(column) is not None or run.labels(column) is not None
        except PostmortemError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("block", [1, 40, 1_000])
def test_csv_reads_the_same_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    lines = [f"{t},{t / 7!r},{'' if t % 5 else 'NaN'},w{t}" for t in range(60)]
    lines[7] = '7,"1.5",inf,"a,b"'
    lines[20] = "20,1"
    lines[30] = "30,oops,1,w30"
    path = tmp_path / "x.csv"
    path.write_text("step,loss,grad_norm,note\n" + "\n".join(lines) + "\n60,1")
    whole = open_run(path)
    monkeypatch.setattr(csv_rows, "_BLOCK", block)
    blocks = open_run(path)
    np.testing.assert_equal(_values(whole), _values(blocks))
    assert "x.csv:22: 1 row" in "".join(whole.notes) and "x.csv:62: the last line is torn" in "".join(whole.notes)
    assert [note for note in whole.notes if "number" not in note] == [n for n in blocks.notes if "number" not in n]
    notes = whole.labels("note"), blocks.labels("note")
    assert notes[0] is not None and notes[1] is not None
    assert notes[0].at(7) == notes[1].at(7) == "a,b"


@pytest.mark.heavy
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_run_directory_ends_in_a_run_or_one_message(tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "m"
    shutil.rmtree(root, ignore_errors=True)
    for attempt in range(2):
        run = RunWriter(root, {"seed": 1, "vocab": "vocab.json"}, attempt=attempt)
        run.event("resume", 3, time=1.0, from_step=3, checkpoint="rollback/step-00000003.pt", restored=[])
        for t in range(attempt * 3, 8):
            run.log(t, {"loss": float(t), "lr": float("nan")})
            run.batch(t, {"batch_hash": str(t), "token_ids": [[1, 2]], "worst_token_losses": [1.0, float("inf")]})
        if data.draw(st.booleans()):
            run.close()
    (root / "vocab.json").write_text('{"tokens": ["a"]}')
    target = data.draw(st.sampled_from(sorted(p for p in root.rglob("*") if p.is_file())))
    content = bytearray(target.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    target.write_bytes(
        bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    )
    try:
        read = open_run(root)
        read.vocab()
        for column in (*read.columns, *read.other_columns):
            for attempt in (None, 0, 1, 99):
                read.series(column, attempt=attempt)
                read.labels(column, attempt=attempt)
    except PostmortemError as error:
        assert "\n" not in str(error)


def _real_logs() -> list[dict[str, object]]:
    labels = REAL_LOGS / "labels.json"
    if not labels.is_file():
        return []
    return [e for e in json.loads(labels.read_text()) if str(e["file"]).endswith((".csv", ".json", ".jsonl"))]


@pytest.mark.skipif(not REAL_LOGS.is_dir(), reason="the shared real logs are absent")
@pytest.mark.parametrize("entry", _real_logs(), ids=lambda entry: str(entry["run_id"]))
def test_real_logs(entry: dict[str, object]) -> None:
    path = REAL_LOGS / str(entry["file"])
    mapping = None
    if entry["label"] == "multi_run_export":
        with pytest.raises(UnreadableInput, match="--run"):
            open_run(path)
        mapping = {"loss": "gpt2_last_char_to_char1729642919.4054031 - train/loss"}
    loss = open_run(path, mapping).series("loss")
    assert loss is not None
    if mapping is None:
        assert (len(loss), loss.step[0], loss.step[-1]) == (
            entry["n_loss_rows"],
            entry["first_step"],
            entry["last_step"],
        )
