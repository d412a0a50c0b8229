"""A format is added by one file: how sure it is, its own column names, its step rule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import postmortem.sources
from postmortem.errors import UnreadableInput, UsageError
from postmortem.run.table import Table
from postmortem.run.values import Numbers
from postmortem.sources import Candidate, Confidence, DerivedSteps, FormatMatch, Source, SourceTable, open_run, sources
from postmortem.sources import _source as room
from tests.sources.helpers import jsonl_rows, losses, write

Add = Callable[[str, str], None]

TICKS = '''
"""A made-up log: `tick <update> cost <loss> pace <rate> mark <hash>`, and a banner."""
import re
import numpy as np
from postmortem.run.rows import Collector
from postmortem.run.table import table_of
from postmortem.run.values import Numbers
from postmortem.sources import Confidence, DerivedSteps, FormatMatch, row_source

def sniff(candidate):
    if candidate.head.startswith(b"TICKS 1"):
        return FormatMatch(Confidence.CERTAIN, "it begins with TICKS 1")

def read(path, labels):
    rows = Collector(labels)
    for line in path.read_text().splitlines()[1:]:
        words = line.split()
        rows.add(dict(zip(words[::2], words[1::2])))
    rows.flush()
    return table_of(rows.chunks, path.name, rows.notes(path.name))

def steps(table):
    """Every row is ten updates; a log that counts them itself does not need the rule."""
    if "tick" in table.names:
        return None
    return DerivedSteps(Numbers(np.arange(table.rows) * 10.0, None), "ten times the count of its rows")

NAMES = {"tick": "step", "cost": "loss", "pace": "lr", "mark": "batch_hash"}
LIMITS = ("a cost of 0 is not printed",)
SOURCE = row_source("ticks", "a TICKS log", sniff, read, columns=NAMES, steps=steps, limits=LIMITS)
'''


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Adds a file of that name and text to the package's own folder, as far as Python can tell."""
    folder = tmp_path / "more_sources"
    folder.mkdir()
    monkeypatch.setattr(postmortem.sources, "__path__", [*postmortem.sources.__path__, str(folder)])
    added: list[str] = []

    def adding(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text)
        added.append(f"postmortem.sources.{name}")
        sources.cache_clear()

    yield adding
    for name in added:
        sys.modules.pop(name, None)
        vars(postmortem.sources).pop(name.rpartition(".")[2], None)
    sources.cache_clear()


def _matching(name: str, ending: str, confidence: str = "CERTAIN", read: str = "None") -> str:
    return (
        "from postmortem.sources import Confidence, FormatMatch, Source\n"
        "def sniff(candidate):\n"
        f"    if candidate.path.name.endswith({ending!r}):\n"
        f"        return FormatMatch(Confidence.{confidence}, 'its name ends in {ending}')\n"
        f"SOURCE = Source({name!r}, 'an {ending} file', sniff, lambda path, mapping: {read})\n"
    )


def _ticks(path: Path, name: str, *rows: str) -> Path:
    return write(path, name, "TICKS 1\n" + "".join(f"{row}\n" for row in rows))


def test_a_format_brings_its_own_names(tmp_path: Path, add: Add) -> None:
    log = _ticks(tmp_path, "x.csv", "tick 3 cost 2.5 pace 0.1 mark 007", "tick 4 cost 2.25 pace 0.1 mark 008")
    with pytest.raises(UnreadableInput):
        open_run(log)
    add("ticks", TICKS)
    run = open_run(log)
    assert losses(run) == {3: 2.5, 4: 2.25} and run.source == "ticks"
    assert run.notes == ("x.csv: a cost of 0 is not printed",)
    assert run.columns == ("loss", "lr", "batch_hash") and run.origin("loss") == "x.csv, column cost"
    marks = run.labels("batch_hash")
    assert marks is not None and marks.value.tolist() == ["007", "008"], "a hash of digits is no number"


def test_a_format_brings_its_own_step_rule(tmp_path: Path, add: Add) -> None:
    add("ticks", TICKS)
    run = open_run(_ticks(tmp_path, "x.log", "cost 3 it 7", "cost 2 it 8", "cost 1 it 9"))
    assert losses(run) == {0: 3.0, 10: 2.0, 20: 1.0}
    assert "x.log: its steps are ten times the count of its rows" in run.notes
    assert losses(open_run(tmp_path / "x.log", {"step": "it"})) == {7: 3.0, 8: 2.0, 9: 1.0}


def test_its_names_go_between_those_of_run_json_and_those_of_all_formats(tmp_path: Path, add: Add) -> None:
    add("ticks", TICKS)
    _ticks(tmp_path / "run", "metrics.log", "loss 9 cost 3 other 5 third 6 it 4", "loss 9 cost 2 other 5 third 6 it 5")
    run = open_run(tmp_path / "run")
    assert losses(run) == {0: 3.0, 10: 2.0}, "before the name that all formats share"
    assert "loss" in run.other_columns
    write(tmp_path, "run/run.json", '{"columns": {"other": "loss", "it": "step"}}')
    assert losses(open_run(tmp_path / "run")) == {4: 5.0, 5: 5.0}, "run.json knows better, of the steps, too"
    assert losses(open_run(tmp_path / "run", {"loss": "third"})) == {4: 6.0, 5: 6.0}, "and --map best"


def test_a_folder_takes_the_file_that_a_format_is_surest_of(tmp_path: Path, add: Add) -> None:
    add("ticks", TICKS)
    _ticks(tmp_path / "run", "out.txt", "tick 1 cost 2", "tick 2 cost 1")
    write(tmp_path, "run/samples.csv", "step,loss\n0,9\n")
    write(tmp_path, "run/config.json", "{}")
    run = open_run(tmp_path / "run")
    assert losses(run) == {1: 2.0, 2: 1.0} and "out.txt is the only log of its kind" in run.notes[0]
    write(tmp_path, "run/metrics.jsonl", jsonl_rows(3))
    assert set(losses(open_run(tmp_path / "run"))) == {0, 1, 2}, "what is called metrics goes first"


def test_a_folder_of_its_own_kind_goes_before_a_bare_folder(tmp_path: Path, add: Add) -> None:
    folder = """
from postmortem.run.rows import read_jsonl
from postmortem.run.table import table_of
from postmortem.sources import Confidence, FormatMatch, Source, SourceTable, assemble

def sniff(candidate):
    if "meta.toy" in candidate.names:
        return FormatMatch(Confidence.CERTAIN, "it holds a meta.toy")

def read(path, mapping):
    chunks, notes = read_jsonl(path / "deep" / "rows", "deep/rows", strict_text=True)
    return assemble(SOURCE, path, path, SourceTable(table_of(chunks, "deep/rows", notes), SOURCE), None, mapping)

SOURCE = Source("toy folder", "a folder with meta.toy", sniff, read, columns={"error": "loss"})
"""
    add("toy_folder", folder)
    write(tmp_path, "run/meta.toy", "")
    write(tmp_path, "run/metrics.csv", "step,loss\n0,9\n")
    write(tmp_path, "run/deep/rows", '{"step": 1, "error": 4}\n{"step": 2, "error": 3}\n')
    run = open_run(tmp_path / "run")
    assert losses(run) == {1: 4.0, 2: 3.0} and run.source == "toy folder" and run.root == tmp_path / "run"


def test_a_folder_with_metrics_in_it_can_be_of_another_tool(tmp_path: Path, add: Add) -> None:
    (tmp_path / "mlruns" / "metrics").mkdir(parents=True)
    write(tmp_path, "mlruns/metrics/loss", "0 1 1\n")
    with pytest.raises(UnreadableInput, match="metrics/ has no rows"):
        open_run(tmp_path / "mlruns")
    add("runs", _matching("runs", "mlruns", read="'read by runs'"))
    assert open_run(tmp_path / "mlruns") == "read by runs"


def test_a_tie_is_refused_by_name_and_can_be_decided(tmp_path: Path, add: Add) -> None:
    add("red", _matching("red", ".log", read="'red'"))
    add("blue", _matching("blue", "n.log", read="'blue'"))
    log = write(tmp_path, "train.log", "hello\n")
    with pytest.raises(UnreadableInput) as caught:
        open_run(log)
    for words in ("red (because its name ends in .log)", "blue (because its name ends in n.log)", "--source 'blue'"):
        assert words in str(caught.value)
    assert open_run(log, source="red") == "red" and open_run(log, source="blue") == "blue"
    assert open_run(write(tmp_path, "other.log", "hello\n")) == "red", "only red matches this name"
    with pytest.raises(UsageError, match=r"no format has this name; there are csv, .*, blue, red"):
        open_run(log, source="green")


def test_a_less_sure_match_is_no_tie(tmp_path: Path, add: Add) -> None:
    add("guess", _matching("guess", "train.csv", "POSSIBLE", "'guessed'"))
    log = write(tmp_path, "train.csv", "step,loss\n0,1\n")
    with pytest.raises(UnreadableInput, match=r"equally sure \(possible\): csv .*; guess "):
        open_run(log)
    add("knows", _matching("knows", "train.csv", "LIKELY", "'known'"))
    assert open_run(log) == "known"


def test_two_sources_of_one_name_are_refused(tmp_path: Path, add: Add) -> None:
    add("again", _matching("csv", ".log"))
    with pytest.raises(TypeError, match=r"Source name 'csv' appears twice: in .*(again|csv_rows)\.py and in .*\.py"):
        sources()


def test_columns_that_are_not_canonical_are_refused() -> None:
    with pytest.raises(ValueError, match="toy: columns: perplexity is no canonical column"):
        Source("toy", "", lambda _: None, lambda *_: pytest.fail("not read"), columns={"ppl": "perplexity"})


def test_a_step_rule_numbers_every_row() -> None:
    short = DerivedSteps(Numbers(np.zeros(2), None), "too few")
    source = Source("toy", "", lambda _: None, lambda *_: pytest.fail("not read"), steps=lambda _: short)
    with pytest.raises(TypeError, match="toy: its step rule gave 2 steps for 0 rows"):
        SourceTable(Table("x", ()), source).derived_steps()


def test_all_sources_look_at_one_reading_of_a_bounded_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "HEAD", 10)
    candidate = Candidate(write(tmp_path, "x.CSV", "step,loss\n0,1\n"))
    opened: list[Path] = []
    original = Path.open

    def spy(self: Path, *args: str) -> object:
        opened.append(self)
        return original(self, *args)

    monkeypatch.setattr(Path, "open", spy)
    assert [candidate.head, candidate.head] == [b"step,loss\n"] * 2 and candidate.ending == ".csv"
    assert opened == [candidate.path]
    matches = [source.sniff(candidate) for source in sources()]
    assert [s.confidence for s in matches if s] == [Confidence.POSSIBLE] and len(opened) == 1


def test_what_is_no_file_has_no_head(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("pipe.csv", "absent.csv", ""):
        assert Candidate(tmp_path / name).head == b""
    assert Candidate(tmp_path).names == ("pipe.csv",) and Candidate(tmp_path / "pipe.csv").names == ()
    assert FormatMatch(Confidence.LIKELY, "x").confidence < Confidence.CERTAIN


def test_the_format_that_contributing_shows(tmp_path: Path, add: Add) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    add("shown", page.partition("### A log format")[2].partition("```python\n")[2].partition("```")[0])
    run = open_run(_ticks(tmp_path, "x.log", "tick 3 cost 2.5 pace 0.1", "tick 4 cost 2.25 pace 0.1"))
    assert losses(run) == {3: 2.5, 4: 2.25} and run.columns == ("loss", "lr")


def test_a_format_need_not_handle_bytes_that_are_no_text(tmp_path: Path, add: Add) -> None:
    add("ticks", TICKS)
    log = tmp_path / "x.csv"
    log.write_bytes(b"TICKS 1\ntick 1 cost \xff\n")
    with pytest.raises(UnreadableInput, match=r"x\.csv: is not UTF-8 text \(byte 20\)"):
        open_run(log)
