"""Mutated runs fed to `draft`: whatever comes, an answer or one message, never a traceback or a half-written report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem.cli._guard import guarded

pytestmark = pytest.mark.heavy
ROWS = 90
EXAMPLES = int(os.environ.get("POSTMORTEM_FUZZ_EXAMPLES", "60"))
WEIRD = [
    "",
    "NaN",
    "nan",
    "Infinity",
    "-inf",
    "null",
    "None",
    "1e400",
    "-1",
    "12.0",
    "12.5",
    '"12"',
    "99999999999999999999",
    "0x10",
    "é",
    "\x1b[31m",
    "{{7*7}}",
    "`<b>`",
    "true",
    "[]",
    "{}",
    "1e-320",
    "-0.0",
    ",",
    "\x00",
    "\ufeff",
]


def _rows() -> list[dict[str, float]]:
    return [
        {
            "step": i,
            "loss": 2.0 + 0.01 * (i * 37 % 11) + (3.0 if i == 60 else 0.0),
            "grad_norm": 0.5 + 0.01 * (i * 17 % 7),
            "lr": 3e-4,
        }
        for i in range(ROWS)
    ]


def _csv(rows: list[dict[str, float]]) -> list[str]:
    return [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]


def _jsonl(rows: list[dict[str, float]]) -> list[str]:
    return [json.dumps(row) for row in rows]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file name and the bytes of a log after up to six mutations of lines, cells, order and bytes."""
    kind = draw(st.sampled_from(["csv", "jsonl"]))
    lines = (_csv if kind == "csv" else _jsonl)(_rows())
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["cell", "drop", "repeat", "shuffle", "cut", "junk"])):
            case "cell":
                cells = lines[at].split(",")
                cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(WEIRD) | st.text(max_size=8))
                lines[at] = ",".join(cells)
            case "drop":
                del lines[at : at + draw(st.integers(1, 40))]
            case "repeat":
                lines[at:at] = lines[max(0, at - 5) : at]
            case "shuffle":
                head, rest = lines[:1], lines[1:]
                draw(st.randoms(use_true_random=False)).shuffle(rest)
                lines = head + rest
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, 10))]
            case _:
                lines.insert(at, draw(st.sampled_from(WEIRD) | st.text(max_size=20)))
        if not lines:
            break
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + draw(st.integers(0, 30)) :]
    return f"metrics.{kind}", data


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
LABELS = (
    "batch_index",
    "batch_hash",
    "source",
    "sample_ids",
    "token_ids",
    "param_hash",
    "valid_labels",
    "rare_tokens",
    "worst_token_ids",
    "worst_token_losses",
    "worst_token_rows",
    "worst_token_cols",
    "tokens",
)


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.integers(55, 65), ODD), max_size=12), st.sampled_from(LABELS), ODD
)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_odd_batches_are_drafted_or_refused(
    capsys: pytest.CaptureFixture[str], odd: list[tuple[str, int, object]], everywhere: str, value: object
) -> None:
    from postmortem.cli import app

    rows: list[dict[str, object]] = [{"step": i, "batch_hash": f"{i:x}", everywhere: value} for i in range(ROWS)]
    for column, step, cell in odd:
        rows[step][column] = cell
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        (run / "metrics.jsonl").write_text("\n".join(_jsonl(_rows())) + "\n")
        (run / "batches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run / "vocab.json").write_text('{"tokens": ["a", "b"]}')
        (run / "run.json").write_text('{"vocab": "vocab.json", "vocab_size": 300}')
        with pytest.raises(SystemExit) as end:
            guarded(lambda: app(["draft", str(run), "--json"], prog_name="postmortem"))
        printed = capsys.readouterr()
        assert end.value.code in (0, None, 3), printed.err
        assert "Traceback" not in printed.err


@given(mutated())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_a_mutated_run_is_drafted_or_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], log: tuple[str, bytes]
) -> None:
    from postmortem.cli import app

    name, data = log
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        (run / name).write_bytes(data)
        out, lessons = Path(folder) / "out", Path(folder) / "lessons.md"
        words = ["draft", str(run), "--out", str(out), "--lessons", str(lessons), "--json"]
        with pytest.raises(SystemExit) as end:
            guarded(lambda: app(words, prog_name="postmortem"))
        printed = capsys.readouterr()
        code = end.value.code or 0
        assert code in (0, 3), printed.err
        assert "Traceback" not in printed.err
        if code == 0:
            assert json.loads(printed.out, parse_constant=pytest.fail)["verdict"]
            assert (out / "report.md").is_file()
            assert "\x1b" not in (out / "report.md").read_text()
        else:
            assert printed.err.count("\n") == 1
            assert "metrics" in printed.err
            assert not out.exists()
            assert not lessons.exists()
