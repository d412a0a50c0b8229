"""Escaping: any text renders as itself."""

from __future__ import annotations

from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.report.markdown import block, code, escape, table
from postmortem.text import plain

NASTY = st.text(st.sampled_from("ab1 _*`~[]()<>&#{}%|\\!-+=.:/$\"'\n\t"), max_size=40)


@given(NASTY | st.text(max_size=40))
def test_escaped_text_renders_as_itself(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    html = (
        markdown_it.MarkdownIt("commonmark", {"html": True}).enable("strikethrough").renderInline("x " + escape(text))
    )
    assert (
        unescape(html) == "x " + plain(text).replace("\\\n", "\n")
        or unescape(html).split() == ("x " + plain(text)).split()
    )
    assert "{{" not in escape(text) and "{%" not in escape(text) and "://" not in escape(text)


@given(NASTY)
def test_escaped_text_begins_no_block(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    tokens = markdown_it.MarkdownIt("commonmark", {"html": True}).parse(str(escape(text.strip())))
    assert {token.type for token in tokens} <= {"paragraph_open", "inline", "paragraph_close"}


def test_ordinary_text_stays_pleasant_to_read() -> None:
    for text in ("grad_norm 47.2 < 50 & rising", "act_rms/layer-0", "[300, 400]", "±0.05 → 2.31", "a (b) c.d"):
        assert escape(text) == text or text == "[300, 400]"
    assert code("metrics.csv, column train/loss") == "`metrics.csv, column train/loss`"


def test_escaping_twice_is_escaping_once() -> None:
    assert escape(escape("a|b_")) == escape("a|b_")


def test_code_falls_back_where_a_span_would_not_hold() -> None:
    assert code("a`b") == r"a\`b"
    assert code("{{x}}") == "&#123;{x}}"


def test_block_is_not_left_early() -> None:
    assert block("a ``` b").splitlines() == ["````sh", "a ``` b", "````"]
    assert block("{% x %}") == "&#123;% x %}"


def test_table_lines_up_in_wide_characters() -> None:
    lines = table(["a", "b"], [["深", 1], ["x|y", 22]]).splitlines()
    assert lines == ["| a    | b   |", "| ---- | --- |", "| 深   | 1   |", r"| x\|y | 22  |"]
