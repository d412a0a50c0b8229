"""One golden report per case: what changes in a report is seen in a diff."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from postmortem.diagnosis import load
from postmortem.errors import UsageError
from postmortem.report import formats, render
from postmortem.text import plain
from tests.report.factory import CASES, HOSTILE

GOLDEN = Path(__file__).parent / "golden"
SECTIONS = ("Symptoms", "Hypotheses", "Discriminating evidence", "Root cause", "Remediation", "Verification", "Lesson")


@pytest.mark.parametrize("name", CASES)
def test_report_is_the_golden_one(name: str, update_goldens: bool) -> None:
    text = render(CASES[name]())
    golden = GOLDEN / f"{name}.md"
    if update_goldens:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_report_renders_from_its_json_alone(name: str, tmp_path: Path) -> None:
    file = tmp_path / "diagnosis.json"
    file.write_text(CASES[name]().to_json(), encoding="utf-8")
    assert render(load(file)) == render(CASES[name]())


@pytest.mark.parametrize("name", [name for name in CASES if name != "clean"])
def test_all_seven_sections_are_there_in_order(name: str) -> None:
    headings = re.findall(r"^## (.*)$", render(CASES[name]()), re.MULTILINE)
    assert headings == [f"{n}. {title}" for n, title in enumerate(SECTIONS, 1)]


def test_the_worked_example_has_every_field_of_the_template() -> None:
    text = render(CASES["spike"]())
    for field in (
        "step where spike began: **312**",
        "pre-spike loss (50-step EMA): **2.31**",
        "peak loss: **5.84**, step 313",
        "recovery loss (50 steps after peak): **3.40**, step 360",
        "grad-norm pre-clip at spike: **47.2",
        "LR at spike: **2.94e-4",
        "dtype regime: **fp32**",
        "batch index in the spike step: **312**",
        "‘tten’",
        "Panel 3 (Gradient norm): 47.2 at step 312, baseline 0.6 → favors H1, counts against H5",
        "Run again with seed 42. The 50-row mean of the loss must stay at or below 2.36 (baseline 2.31 + 0.05)",
        "through 500",
    ):
        assert field in text


def test_a_run_that_never_recovers() -> None:
    text = render(CASES["nan"]())
    assert (
        "did not recover: NaN" in text
        and "Destructive update wrote a NaN" in text
        and "last NaN-free checkpoint" in text
    )


def test_another_incident_can_be_chosen() -> None:
    assert "learning-rate discontinuity" in render(CASES["several"](), incident=2)
    assert "This report is about incident 2" in render(CASES["several"](), incident=2)
    with pytest.raises(UsageError, match=r"no incident 9: there are 1 .*, 2 .*, 3 "):
        render(CASES["several"](), incident=9)


def test_no_probabilities_are_shown() -> None:
    assert "0.91" not in render(CASES["spike"]()) and "91 %" not in render(CASES["spike"]())


def test_unknown_format_names_those_there_are() -> None:
    assert formats() == ("json", "md", "terminal")
    with pytest.raises(UsageError, match="choose from json, md, terminal"):
        render(CASES["spike"](), format="pdf")


def test_hostile_names_are_harmless() -> None:
    text = render(CASES["hostile"]())
    assert "\x1b" not in text and "\u202e" not in text and "<img" not in text
    assert "{{" not in text and "{%" not in text and "](http" not in text and "http://" not in text
    assert "javascript" not in text and "\n## Notes" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert plain(HOSTILE) not in text


def test_hostile_names_become_text_in_html() -> None:
    markdown_it = pytest.importorskip("markdown_it")
    html = (
        markdown_it.MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(render(CASES["hostile"]()))
    )
    assert "<img src=x" not in html and 'href="' not in html and html.count("<h1>") == 1 and html.count("<h2>") == 7
    assert "<em>e</em>" not in html and "<strong>b</strong>" not in html and "`y`" in html


def test_a_skip_window_without_batch_indices_says_what_it_counts() -> None:
    case = CASES["spike"]()
    assert "one batch per step is assumed" not in render(case)
    one = case.incidents[0]
    unlogged = tuple(
        replace(s, value=None, missing="not logged") if s.key == "batch_index" else s for s in one.symptoms
    )
    text = render(replace(case, incidents=(replace(one, symptoms=unlogged),)))
    assert "(absolute, half-open; no batch index is logged, so one batch per step is assumed)." in text
