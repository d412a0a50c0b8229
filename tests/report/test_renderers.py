"""Every format there is, and one that comes from outside."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from postmortem.report import formats, render, renderers, summarize
from tests.report.factory import CASES, hostile, spike

CODE = """
from pathlib import Path

from markupsafe import escape

from postmortem.report.renderers import Renderer
from postmortem.report.templates import Template

RENDERER = Renderer("html", Template("report.html.j2", escape, folder=Path(__file__).parent))
"""
TEMPLATE = """<!doctype html><html>
{% macro line(p) %}<li>Panel {{ p.number }} ({{ p.title }}): {{ p.text|sentence }} {{ p.would_tell }}</li>{% endmacro %}
{% macro table(t) %}
<table>
<tr>{% for header in t.headers %}<th>{{ header }}</th>{% endfor %}</tr>
{% for row in t.rows %}
<tr{% if loop.index0 == t.marked %} class="shown"{% endif %}>{% for v in row %}<td>{{ v }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endmacro %}
<title>{{ report.title }}, {{ report.run_id }}</title>
<h1>{{ report.verdict_words }}: {{ report.verdict_means }}</h1>
<p>{{ report.source }}, {{ report.extent }}, seed {{ report.seed }}, {{ report.dtype }}, {{ report.processes }}</p>
{% for note in report.notes %}<p>{{ note }}</p>{% endfor %}
{{ table(report.incidents) }}
<ul>{% for p in report.looked_at %}{{ line(p) }}{% endfor %}</ul>
{% with i = report.incident %}{% if i %}
<p>{{ i.summary|sentence }}</p>
{% for s in i.symptoms %}<p>{{ s.label }}: {{ s.missing or s.text }} <sup>{{ s.mark }}</sup></p>{% endfor %}
{% for f in i.symptom_sources %}
{% for p in f.places %}<p>{{ p.mark }}: {{ f.file }} {{ p.name }}</p>{% endfor %}
{% endfor %}
{% for h in i.hypotheses %}
<p id="h{{ h.number }}">{{ h.title }}:
{%- for p in h.supported_by %}{{ separator(loop) or " " }}{{ p.name }}{% endfor %}</p>
{% endfor %}
{% for e in i.evidence %}<p>{{ e.text }}: {{ e.effect }}</p>{% endfor %}
<ul>{% for p in i.moved %}{{ line(p) }}{% endfor %}</ul>
{% for s in i.samples %}
<p>{{ s.sample_id }}:
{% for p in s.pieces %}{% if p.marked %}<mark>{{ p.text }}</mark>{% else %}{{ p.text }}{% endif %}{% endfor %}</p>
{% endfor %}
<p>{{ i.root_cause|sentence }} {{ i.checkpoint }} {{ i.lesson|sentence }}</p>
{% for change in i.changes %}<p>{{ change.text }} {{ change.side_effect }}</p>{% endfor %}
{% if i.verification %}{% for check in i.verification.checks %}<p>{{ check }}</p>{% endfor %}{% endif %}
{% endif %}{% endwith %}
</html>
"""


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A format in a folder of somebody else: one renderer and one template."""
    (tmp_path / "html.py").write_text(CODE)
    (tmp_path / "report.html.j2").write_text(TEMPLATE)
    monkeypatch.setattr(renderers, "__path__", [*renderers.__path__, str(tmp_path)])
    renderers.renderers.cache_clear()
    yield
    renderers.renderers.cache_clear()
    del renderers.html, sys.modules["postmortem.report.renderers.html"]


@pytest.mark.usefixtures("html")
def test_a_format_from_outside() -> None:
    assert formats() == ("html", "json", "md", "terminal")
    name = "<script>alert(1)</script> *b* _e_ a|b [c](d) # & `y`"
    page = render(hostile(name), format="html")
    assert "\\" not in page and "<script" not in page and "&amp;lt;" not in page
    read = Page(page)
    assert "".join(read.text).count(name) > 30
    harmless = render(spike(), format="html")
    assert set(read.tags) == set(Page(harmless).tags)  # what a name holds is never a tag
    assert '<p id="h1">Long-tail token outlier: per-token loss, gradient norm and activations by layer</p>' in harmless
    assert "the letter was wri<mark>tten</mark> today</p>" in harmless


@pytest.mark.usefixtures("html")
@pytest.mark.parametrize("case", CASES)
def test_every_format_renders_every_case(case: str) -> None:
    for format in formats():
        text = render(CASES[case](), format=format)
        assert text.endswith("\n") and "\x1b" not in text and "\u202e" not in text


def refuse(word: str) -> None:
    raise ValueError(word)


@pytest.mark.parametrize("case", CASES)
def test_json_is_strict(case: str) -> None:
    json.loads(render(CASES[case](), format="json"), parse_constant=refuse)


def test_json_holds_what_the_page_says() -> None:
    said = json.loads(render(CASES["several"](), incident=2, format="json"))
    assert (said["incident"]["id"], said["incident"]["onset_step"], said["incidents"]["marked"]) == (2, 700, 1)
    assert said["incident"]["hypotheses"][0]["supported_by"] == [{"number": 2, "name": "learning rate"}]
    assert json.loads(render(CASES["nan"](), format="json"))["incident"]["symptoms"][2]["value"] == "NaN"


def test_json_holds_half_a_surrogate_pair() -> None:
    text = render(hostile("a\ud800b"), format="json")
    assert text.isascii() and json.loads(text)["run_id"] == "a\ud800b"


@pytest.mark.parametrize("case", CASES)
def test_the_terminal_format_is_the_summary(case: str) -> None:
    lines = ["".join(span.text for span in line).rstrip() for line in summarize(CASES[case]())]
    assert render(CASES[case](), format="terminal").splitlines() == lines
