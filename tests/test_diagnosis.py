"""Ranking by softmax, the words for it, and reading back what was written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem import diagnosis
from postmortem.errors import UnreadableInput

scores = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-50, 50), min_size=1)


@given(scores)
def test_rank_is_a_distribution_in_order_of_the_scores(known: dict[str, float]) -> None:
    ranked = diagnosis.rank(known)
    assert sum(ranked.values()) == pytest.approx(1)
    assert [known[c] for c in ranked] == sorted(known.values(), reverse=True)


@given(scores, st.floats(-20, 20))
def test_rank_depends_on_differences_only(known: dict[str, float], shift: float) -> None:
    moved = diagnosis.rank({c: s + shift for c, s in known.items()})
    assert {c: pytest.approx(p, abs=1e-9) for c, p in diagnosis.rank(known).items()} == moved


def test_strength_has_three_words() -> None:
    assert [diagnosis.strength(p) for p in (0.95, 0.5, 0.1)] == ["strong", "moderate", "weak"]


def _minimal() -> diagnosis.Diagnosis:
    facts = diagnosis.RunFacts("r", "csv", 1, 0, 0, None, None, "", None, "")
    panel = diagnosis.PanelReading(1, "loss", "Loss", traces=(diagnosis.Trace("loss", (0, 1), (1.0, math.nan)),))
    version = diagnosis.SCHEMA_VERSION
    return diagnosis.Diagnosis(version, "postmortem 0", "r", "no_incident", facts, (), ("a note",), (panel,))


def test_non_finite_numbers_survive_strict_json(tmp_path: Path) -> None:
    text = _minimal().to_json()
    assert "NaN" in json.loads(text, parse_constant=pytest.fail)["quiet_panels"][0]["traces"][0]["value"]
    file = tmp_path / "d.json"
    file.write_text(text)
    assert math.isnan(diagnosis.load(file).quiet_panels[0].traces[0].value[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema_version": 99}',
        '{"schema_version": 2}',
        '{"schema_version": 2, "incidents": {"a": 1}}',
        "null",
    ],
)
def test_what_is_no_diagnosis_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text(text)
    with pytest.raises(UnreadableInput, match=r"d\.json"):
        diagnosis.load(file)


@pytest.mark.parametrize(("field", "value"), [("verdict", "guilty"), ("run", 3), ("incidents", [{}]), ("notes", "x")])
def test_a_field_of_the_wrong_shape_is_refused(field: str, value: object, tmp_path: Path) -> None:
    raw = json.loads(_minimal().to_json()) | {field: value}
    file = tmp_path / "d.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(UnreadableInput):
        diagnosis.load(file)
