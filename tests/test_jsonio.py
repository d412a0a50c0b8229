"""Dataclasses to strict JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from postmortem.errors import UnreadableInput
from postmortem.jsonio import build_from, numbers_on_one_line, read_record, strict_json


@dataclass(frozen=True)
class Inner:
    """What is nested."""

    at: tuple[int, float]


@dataclass(frozen=True)
class Outer:
    """One field of each kind that the records have."""

    name: str
    kind: Literal["x", "y"]
    value: float | None
    inner: tuple[Inner, ...]
    named: Mapping[str, float]
    more: int = field(default=3)


WHOLE = Outer("a ℓ", "x", math.inf, (Inner((1, -math.inf)), Inner((2, 0.5))), {"k": 2.0})


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_record_comes_back(ensure_ascii: bool) -> None:
    text = strict_json(WHOLE, ensure_ascii=ensure_ascii)
    assert text.isascii() is ensure_ascii and text.endswith("}\n")
    assert build_from(Outer, json.loads(text, parse_constant=pytest.fail)) == WHOLE


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_what_nobody_sees_is_escaped(ensure_ascii: bool) -> None:
    hidden = "\u202e \u2066 \u200b \u200d \x85 \x9b \x7f \u2028 \ufeff \ud800 \U000e0041 \ue000 \x1b"
    text = strict_json({hidden: [hidden, "é漢😀"]}, ensure_ascii=ensure_ascii)
    shown = set(text) - set("é漢😀")
    assert shown <= set(map(chr, range(0x20, 0x7F))) | {"\n"} and ("漢" in text) is not ensure_ascii
    assert json.loads(text) == {hidden: [hidden, "é漢😀"]} and text.encode()


def test_a_missing_field_takes_its_default_or_is_an_error() -> None:
    raw = json.loads(strict_json(WHOLE))
    del raw["more"]
    assert build_from(Outer, raw) == WHOLE
    del raw["name"]
    with pytest.raises(TypeError, match="name"):
        build_from(Outer, raw)


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", 3), ("kind", "z"), ("value", "1"), ("value", True), ("inner", [{"at": [1]}]), ("more", 0.5)],
)
def test_a_field_of_the_wrong_kind_is_an_error(key: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        build_from(Outer, json.loads(strict_json(WHOLE)) | {key: value})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"value": []}, r"^value: expected a number or null, found a list$"),
        ({"more": True}, r"^more: expected a whole number, found true or false$"),
        ({"inner": [{"at": [1, "2"]}]}, r"^inner: at: expected a number, found a text$"),
        ({"inner": [3]}, r"^inner: expected an object, found a whole number$"),
        ({"named": None}, r"^named: expected an object, found null$"),
    ],
)
def test_an_error_says_where_and_what_in_words_of_json(changed: dict[str, object], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        build_from(Outer, json.loads(strict_json(WHOLE)) | changed)


def test_utf8_holds_any_text() -> None:
    text = strict_json({"half": "\ud83d", "ℓ": 1}, ensure_ascii=False)
    assert json.loads(text.encode()) == {"half": "\ud83d", "ℓ": 1}


def test_numbers_stand_on_one_line_and_texts_are_left() -> None:
    held = {"trace": (1.5, -2, math.nan), "text": "[\n1,\n2]", "texts": ("1", "2"), "none": (None, 1), "empty": ()}
    text = numbers_on_one_line(strict_json(held))
    assert '"trace": [1.5, -2, "NaN"],' in text
    assert json.loads(text) == json.loads(strict_json(held)) and text.count("\n") == strict_json(held).count("\n") - 4


def test_a_record_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(strict_json(WHOLE))
    assert read_record(Outer, file, "an outer record") == WHOLE
    checked: list[dict[str, Any]] = []
    read_record(Outer, file, "an outer record", check=checked.append)
    assert checked[0]["name"] == WHOLE.name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"name": 3}',
            r"record\.json: is not an outer record \(name: expected a text, found a whole number\)\. Draft it",
        ),
        (b'{"kind": "x"}', r"record\.json: is not an outer record \(no name\)"),
        (b"[1]", r"record\.json: expected an object"),
        (b'{"name":\n 3', r"record\.json:2: not JSON"),
        (b"\xff", r"record\.json:1: not UTF-8"),
        (None, r"record\.json: cannot be read \(No such file"),
    ],
)
def test_what_is_no_record_is_refused_with_file_and_field(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "record.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnreadableInput, match=message):
        read_record(Outer, file, "an outer record", hint="Draft it again.")
