"""What the template of the post-mortem asks of a report, held over one real diagnosis for each cause."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postmortem.causes import causes
from postmortem.pipeline import diagnose
from postmortem.report import render
from postmortem.sources import open_run
from tests.test_pipeline import CASES, make


@pytest.mark.parametrize("cause", CASES)
def test_a_report_keeps_to_its_template(cause: str, tmp_path: Path) -> None:
    """No section is empty, the symptoms are figures that name no cause, and the root cause is one sentence."""
    d = diagnose(open_run(make(cause, tmp_path / "run")))
    _, *sections = re.split(r"^## \d\. ", render(d), flags=re.MULTILINE)
    texts = dict(section.partition("\n")[::2] for section in sections)
    assert len(texts) == 7 and all(text.strip() for text in texts.values())
    symptoms = [line for line in texts["Symptoms"].splitlines() if line.startswith("- ")]
    assert len(symptoms) == len(d.incidents[0].symptoms)
    value = re.compile(r"\*\*.*(\d|NaN|none flagged).*\*\*|— \*.+\*")  # or why it is missing
    assert not [line for line in symptoms if not value.match(line.partition(": ")[2])]
    titles = [one.title.lower() for one in causes()]
    assert not [title for title in titles if title in texts["Symptoms"].lower()]
    assert len(re.findall(r"[.!?](?=\s|$)", d.incidents[0].root_cause)) == 1
