"""CITATION.cff says of the software what the package says of itself."""

from __future__ import annotations

import tomllib
from typing import Any

import yaml

import postmortem
from tests.samples import ROOT

CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_it_holds_what_the_format_requires() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"] and CITATION["title"]
    assert CITATION["authors"] and all(author.get("name") for author in CITATION["authors"])


def test_it_agrees_with_the_package() -> None:
    assert CITATION["version"] == postmortem.__version__
    assert CITATION["type"] == "software" and CITATION["title"] == "postmortem"
    assert CITATION["abstract"] == PROJECT["description"]
    assert (CITATION["license"], CITATION["keywords"]) == (PROJECT["license"], PROJECT["keywords"])
