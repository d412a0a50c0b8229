"""The one reader of small files: what it refuses, at once and with one message."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from postmortem import diagnosis, small_file
from postmortem.checkpoint import Policy
from postmortem.errors import UnreadableInput
from postmortem.jsonio import read_object
from postmortem.replay.spec import read_spec
from postmortem.run.journal import read_journal
from postmortem.run.manifest import read_mapping
from postmortem.small_file import DEEPEST, BeyondLimit, parse_json, parse_toml, parse_yaml, read_bytes, read_text
from postmortem.sources import open_run

ROOT = Path(__file__).parents[1]
ATTACKS = ROOT.parent / "shared" / "attack_cases"

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "bytes": ("file", read_bytes),
    "record": ("record.json", read_object),
    "diagnosis": ("diagnosis.json", diagnosis.load),
    "spec of a replay": ("replay.json", read_spec),
    "manifest": ("run.yaml", read_mapping),
    "policy": ("policy.yaml", Policy.from_file),
    "policy, TOML": ("policy.toml", Policy.from_file),
    "journal": ("journal.jsonl", read_journal),
    "CSV": ("m.csv", open_run),
    "JSON": ("trainer_state.json", open_run),
    "JSON lines": ("m.jsonl", open_run),
    "Parquet": ("m.parquet", open_run),
}


def pipe(file: Path) -> None:
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


def terminal(file: Path) -> None:
    file.symlink_to("/dev/tty")


def folder(file: Path) -> None:
    file.mkdir()


def of_a_server(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(file))  # a socket's path has a hundred characters at most


@pytest.fixture
def soon() -> Iterator[None]:
    """End the test if it waits for ever."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("made", [pipe, endless, terminal, folder, of_a_server])
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(
    reader: str, made: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, read = READERS[reader]
    made(tmp_path / name)
    with pytest.raises(UnreadableInput, match=f"{name}.*(is no regular file|is a directory|folder)|no known kind"):
        read(tmp_path / name)


@pytest.mark.usefixtures("soon")
def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, sound = tmp_path / "a.json", tmp_path / "sound.json"
    sound.write_text("{}")
    pipe(file)
    regular = sound.stat()
    monkeypatch.setattr(Path, "stat", lambda *_: regular)
    with pytest.raises(UnreadableInput, match=r"a\.json: is no regular file"):
        read_bytes(file)


def test_the_size_is_bounded_and_the_text_is_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"\xef\xbb\xbfab")
    assert read_text(file) == "ab" and read_bytes(file, limit=5) == file.read_bytes()
    with pytest.raises(UnreadableInput, match=r"^log: larger than 0 MiB\. Do this\.$"):
        read_bytes(file, name="log", limit=4, hint="Do this.")
    file.write_bytes(b"a\nb\xff")
    with pytest.raises(UnreadableInput, match=r"a:2: not UTF-8"):
        read_text(file)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "no")


def nested(depth: int, shape: str) -> str:
    return {"list": "[" * depth + "]" * depth, "object": '{"a":' * depth + "1" + "}" * depth}[shape]


@pytest.mark.parametrize("shape", ["list", "object"])
@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_nesting_is_bounded(parse: Callable[[str], object], shape: str) -> None:
    parse(nested(DEEPEST, shape))
    for depth in (DEEPEST + 1, 900, 100_000):
        with pytest.raises(ValueError, match=r"nested more than 100 levels deep|nesting"):
            parse(nested(depth, shape))


def test_many_values_are_no_nesting() -> None:
    rows = [{"step": step, "inner": {"lr": [0.1, 0.2]}} for step in range(200)]
    assert parse_json(json.dumps(rows)) == parse_yaml(json.dumps(rows)) == rows


def test_integers_of_any_length() -> None:
    long = "9" * 5000
    assert parse_json(long, round_integers=True) == float("inf")
    with pytest.raises(ValueError, match="digits"):
        parse_json(long)
    with pytest.raises(ValueError, match="digits"):
        parse_yaml(f"a: {long}")


def test_values_that_would_fill_the_memory_are_refused_before_they_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", pytest.fail)
    with pytest.raises(BeyondLimit, match="512 MiB of memory"):
        parse_json("[" + "{}," * 3_000_000 + "{}]")


def multiplied(first: str, next_: str) -> str:
    """Thirty anchors, each of which names the one before it twice."""
    lines = [next_.replace("N", f"a{i}").replace("B", f"*a{i - 1}") for i in range(1, 30)]
    return "\n".join([f"a0: &a0 {first}", *lines])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a\n  b: *a\n", r"an alias of itself, \*a"),
        ("a: &a [1, 2, *a]\n", r"an alias of itself, \*a"),
        ("a: &a {<<: *a}\n", r"an alias of itself, \*a"),
        ("a: *b\n", "undefined alias"),
        (multiplied("[x, x]", "N: &N [B, B]"), "100,000 values"),
        (multiplied("{x: 1}", "N: &N {<<: [B, B]}"), "100,000 values"),
        ("a: [" + "1," * 200_000 + "]", "100,000 values"),
        ("a: " + "x" * 2**20, "1 MiB of YAML"),
        ("a: !!python/object/apply:os.system [ls]", "python/object"),
        ("a: !!timestamp now", "does not fit its tag"),
        ("a: 2001-13-45", "month"),
        ("--- 1\n--- 2\n", "single document"),
        ("? {a: 1}\n: 2", "unhashable"),
        ("a: \0", "control characters|not allowed"),
    ],
)
def test_hostile_yaml(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_yaml(text)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = " + nested(10_000, "list"), "nested more than 100 levels deep"),
        ("a = " + "{a = " * 10_000 + "1" + "}" * 10_000, "nested more than 100 levels deep"),
        ("a." * DEEPEST + "a = 1", "nested more than 100 levels deep"),
        ("a." * 250_000 + "a = 1", "nested more than 100 levels deep"),
        ("[" + "'a' . " * 50_000 + "a]", "nested more than 100 levels deep"),
        ("x = {" + '"a"\t.' * 50_000 + "a = 1}", "nested more than 100 levels deep"),
        ('"\\' * 500_000, "not TOML"),
        ('"' * 1_000_000, "not TOML"),
        ("a = '" + "x" * 2**20 + "'", "1 MiB of TOML"),
        ("a = 1\na = 2", "not TOML: Cannot overwrite"),
        ("a: 1", "not TOML"),
        ("a = \0", "not TOML"),
    ],
)
def test_hostile_toml(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_toml(text)


def test_toml_becomes_what_json_has() -> None:
    value = parse_toml("when = 2024-01-01\nbig = 1e400\n[a.b]\nlr = [0.1, 1]\n[[c]]\nx = true\n")
    assert value == {"when": "2024-01-01", "big": float("inf"), "a": {"b": {"lr": [0.1, 1]}}, "c": [{"x": True}]}
    assert parse_toml("a." * (DEEPEST - 1) + "a = 1")


def test_yaml_becomes_what_json_has() -> None:
    text = (
        "when: 2024-01-01\n1: one\nbytes: !!binary aGk=\nset: !!set {x}\nnone: ~\nbig: 1e400\nlr: &lr 0.1\nsame: *lr\n"
    )
    value = parse_yaml(text)
    assert value["when"] == "2024-01-01" and value["1"] == "one" and value["set"] == ["x"] and value["bytes"] == "hi"
    assert value["none"] is None and value["same"] == 0.1
    assert json.loads(json.dumps(value)) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=30,
    )
)
def test_sound_values_come_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_yaml(yaml.safe_dump(value)) == yaml.safe_load(yaml.safe_dump(value))


def test_no_loader_in_c_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert parse_yaml("a: [1, {b: 2}]") == {"a": [1, {"b": 2}]}
    with pytest.raises(BeyondLimit, match="nested"):
        parse_yaml(nested(900, "list"))


@pytest.mark.processes
@pytest.mark.parametrize(
    "words", [("draft", "r", "--out", "x"), ("diff", "r", "r"), ("doctor", "r")], ids=lambda w: w[0]
)
@pytest.mark.parametrize(
    "case", ["06-yaml-alias-diff/bomb.yaml", "06-yaml-alias-diff/self.yaml", "07-deep-nesting/deep.yaml"]
)
def test_a_config_that_multiplies(case: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.yaml").write_bytes((ATTACKS / case).read_bytes())
    rows = [json.dumps({"step": step, "loss": 2.0}) for step in range(50)]
    (tmp_path / "r" / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "postmortem", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (400 * 2**20, 400 * 2**20)),
    )
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("postmortem: r/run.yaml: cannot be read (")


@pytest.mark.parametrize("case", ["deep.jsonl", "metrics.jsonl"])
def test_a_cell_that_is_nested_too_deeply_is_named(case: str) -> None:
    file = ATTACKS / "07-deep-nesting" / case
    try:
        notes = " ".join(open_run(file).notes)
    except UnreadableInput as error:
        notes = str(error)
    assert f"{case}:" in notes and "nested more than 100 levels deep" in notes


def test_a_large_file_of_objects_without_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_file, "_MOST_MEMORY", 2**20)
    file = tmp_path / "m.json"
    file.write_text("[" + "{}," * 400_000 + "{}]")
    with pytest.raises(UnreadableInput, match=r"m\.json: cannot be read \(its lists and objects.*JSON lines"):
        open_run(file)
