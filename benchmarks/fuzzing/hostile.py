"""What damaged and hostile files contain: words, numbers, tokens, bytes, names, links and columns."""

from __future__ import annotations

import decimal
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

# fmt: off
WORDS = (
    "", " ", "nan", "NaN", "-inf", "Infinity", "null", "None", "true", "1e400", "-1e308", "1e308", "1e-320", "-0.0",
    "-1",
    "0", "1", "12.5", "9" * 400, "9" * 5000, str(2**31), str(2**63), str(2**64), str(-(2**63)), "0x10", "1_0",
    "2026-13-45",
    "2026-01-01", "12:30:45", "é", "\u0661\u0662", "a" * 300, "a/b", "../..", "/", "\\", ",", "\t", '"', "\x1b[31m",
    "\x00",
    "\x85", "\x9b2J", "\u202e", "\u2066", "\u200b", "\ufeff", "\ud800", "\U0001f4a5", "{{7*7}}", "loss", "step", "lr",
    "%s{0}",
    "grad_norm", "attempt", "rank", "batch_hash", "loss/rank0", "{}", "[]", "`<b>`",
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30, 1e308, -1e308, 5e-324,
    float("nan"),
    float("inf"), float("-inf"), [], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"b": []}}, [0] * 1000,
    [[0, 1]] * 50, {str(i): i for i in range(300)}, *WORDS,
)
RAW = (  # instead of a JSON value
    "1e999", "-1e999", "9" * 5000, "-" + "9" * 400, "0." + "0" * 400 + "1", "NaN", "-Infinity", "-0", "1E400", "01", "",
    "[" * 900 + "]" * 900, "[" * 90_000, '{"a":' * 400 + "1" + "}" * 400, '{"a":1,"a":2}', '"\\ud800"', '"\\u0000"',
    "/*a*/1",
    '"\\u202e"', '"\t"', "'a'", "undefined", '"' + "a" * 200_000 + '"', "[" + "{}," * 20_000 + "{}]",
)
BYTES = (
    b"\x00", b"\x00" * 64, b"\xff" * 8, b"\x80\x04", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n\n", b"PK\x03\x04",
    b"PAR1",
    b"\xed\xa0\x80", b"\xc0\xaf", b"\xe2\x80\xae", b"\xc2\x85", b"\x1b[2J", b'"', b"{", b"}", b"[" * 3000, b"]", b",",
    b":",
    *(struct.pack("<q", value) for value in (-1, 2**31, 2**40, 2**62, -(2**63))),
    *(struct.pack("<i", value) for value in (-1, 2**30, -(2**31))),
    *(word.encode("utf-8", "surrogatepass") for word in WORDS[:20]),
)
_BOMB = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
YAML = (  # lines, and values behind a key
    "&a [*a]", "*b", "&a {x: *a}", "!!python/object/apply:os.getcwd []", "!!binary aGk=", "!!set {a, b}", "!x y",
    "<<: 1",
    "!!timestamp 2026-99-99", "2026-01-01 25:61:61", "190:20:30", ".inf", "-.inf", ".nan", "0o77", "1e5", "~", "yes",
    "=",
    "? [a, b] : c", "? {a: 1}\n: 2", "[" * 2000, "[" * 300 + "]" * 300, "{a: " * 300 + "1" + "}" * 300,
    "- " * 500 + "a",
    "%YAML 9.9", "---", "...", "a: b: c", "\t- a", "|\n  text", ">+\n", "'", '"\\x1b"', "<<: {a: 1}", "a: 1\na: 2",
    "@", "`",
    "l0: &l0 [lol, lol, lol]\n" + _BOMB, "x: &x {a: 1}\ny: {<<: [*x, *x]}", "!!int 0b2", "!!float x", "!!null x",
)
TARGETS = (  # of links
    ".", "..", "../..", "/dev/zero", "/dev/full", "/dev/null", "/nowhere/at/all", "\udcff", "a" * 300, "../sentinel",
    "../sentinel/postmortem", "../../sentinel/postmortem", "../../sentinel/run.json", "../../sentinel",
)
NAMES = (  # of files that were not there
    "part-000002.parquet", "part-999999999999999999999.parquet", "part-1.parquet", "tail-0-0.jsonl", "tail-9-9.jsonl",
    "tail-1-0.jsonl", "run.json", "run.yml", "metrics.csv", "batches.csv", "journal.jsonl", "\x1b[31m", "\u202eabc",
    "-x",
    "step-00000100.dcp", "step-99999999999999999999.dcp", ".metadata", "state-1.json", "__1_0.distcp", "a" * 250,
    "a\nb",
    "\udcff\udcfe", "latest", ".writer-0.lock", "proof.json", ".x.draft", "x.tmp", "diagnosis.json",
)
# fmt: on


@cache
def odd_columns() -> tuple[Callable[[int], Any], ...]:
    """Makers of Arrow columns of n rows that a log seldom has."""
    import pyarrow as pa

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    cells: tuple[tuple[Any, Any], ...] = (
        (None, pa.null()), (True, pa.bool_()), (2**63, pa.uint64()), (-(2**63), pa.int64()), (1.5, pa.float16()),
        (1e308, pa.float64()), (float("nan"), pa.float64()), (float("-inf"), pa.float32()), (5e-324, pa.float64()),
        (decimal.Decimal("9" * 30), pa.decimal128(38, 0)), (decimal.Decimal("1.5"), pa.decimal256(50, 1)),
    (7, pa.int8()),
        (date(1, 1, 1), pa.date32()), (moment, pa.timestamp("ns")), (moment, pa.timestamp("s", "Europe/Paris")),
        (5, pa.duration("us")), (5, pa.time64("ns")), (b"\xff", pa.binary()), (b"ab", pa.binary(2)), ("1", pa.string()),
        ("9" * 400, pa.string()), ("\u202e\x1b", pa.large_string()), ("NaN", pa.string()),
    ([1.0], pa.list_(pa.float64())),
        ([[1], None], pa.list_(pa.list_(pa.int8()))), ([], pa.list_(pa.null())), ({}, pa.struct([])),
        ({"a": 1}, pa.struct([("a", pa.int64())])), ([("k", 1)], pa.map_(pa.string(), pa.int8())),
        ([1, 2], pa.list_(pa.int8(), 2)), ("x", pa.dictionary(pa.int8(), pa.string())),
    )  # fmt: skip

    def maker(cell: Any, kind: Any, *, holes: bool) -> Callable[[int], Any]:
        return lambda rows: pa.array([None if holes and i % 3 == 0 else cell for i in range(rows)], kind)

    makers = [maker(cell, kind, holes=holes) for cell, kind in cells for holes in (False, True)]
    return (*makers, lambda rows: pa.array([float(i % 5 or 1e308) for i in range(rows)]))
