"""docs/requirements.md: what it names exists, what it calls parses, and the page is what the list gives today."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts._requirements import PAGE, STATES, Requirement, faults, read_requirements, requirements_page
from tests.samples import ROOT

SOUND = Requirement(
    id="a-b",
    document="rollback",
    says="It works | well.",
    state="shown",
    tests=("tests/test_requirements.py::test_a_sound_one_has_no_faults",),
    commands=("postmortem plan --params 7e9 --rollback-contents parameters",),
    see=("docs/run-format.md#journaljsonl",),
)
OTHER = "tests/test_pipeline.py"


def test_the_list_has_no_faults() -> None:
    assert faults(read_requirements()) == []


def test_the_page_is_fresh() -> None:
    written_by, _, page = (ROOT / PAGE).read_text("utf-8").partition("\n\n")
    assert page == requirements_page(read_requirements()), "write it with: make docs"
    assert "docs/requirements.toml" in written_by


def test_a_sound_one_has_no_faults() -> None:
    assert faults([SOUND, replace(SOUND, id="c", tests=(f"{OTHER}::TestHealth::test_none_is_healthy",))]) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"tests": ("tests/test_nowhere.py::test_x",)}, "there is no test tests/test_nowhere.py::test_x"),
        ({"tests": (f"{OTHER}::test_nowhere",)}, f"there is no test {OTHER}::test_nowhere"),
        ({"tests": (f"{OTHER}::test_none_is_healthy",)}, "there is no test"),  # it is in a class
        ({"tests": (f"{OTHER}::TestHealth::test_a_healthy_run_is_no_incident",)}, "there is no test"),  # it is in none
        ({"tests": (f"{OTHER}::make",)}, "there is no test"),
        ({"tests": (OTHER,)}, "there is no test"),
        ({"tests": ("scripts/_requirements.py::test_x",)}, "there is no test"),
        ({"commands": ("postmortem plan --param 7",)}, "No such option"),
        ({"commands": ("postmortem plan",)}, "Missing option"),
        ({"commands": ("postmortem plan --params many",)}, "Invalid value"),
        ({"commands": ("postmortem draft RUN --mode watch",)}, "Invalid value"),
        ({"commands": ("postmortem draft",)}, "Missing argument"),
        ({"commands": ("postmortem drafft RUN",)}, "no such command"),
        ({"commands": ("postmortem",)}, "no such command"),
        ({"commands": ("runs-diff --everything a b",)}, "No such option"),
        ({"commands": ("make nothing",)}, "no such target"),
        ({"commands": ("python x.py",)}, "begins with none of"),
        ({"see": ("docs/nowhere.md",)}, "there is no docs/nowhere.md"),
        ({"see": ("docs/run-format.md#nowhere",)}, "there is no docs/run-format.md#nowhere"),
        ({"tests": (), "commands": ()}, "is shown by no test and no command"),
        ({"state": "otherwise"}, "is otherwise, and does not say why"),
        ({"state": "open"}, "is open, and does not say why"),
        ({"state": "done"}, "'done' is no state"),
        ({"id": "A b"}, "an id has lower-case words"),
    ],
)
def test_a_fault_is_named(changed: dict[str, object], fault: str) -> None:
    (found,) = faults([replace(SOUND, **changed)])  # type: ignore[arg-type]
    assert found.startswith(f"{changed.get('id', 'a-b')}: ") and fault in found


def test_an_id_that_repeats_is_named() -> None:
    assert faults([SOUND, replace(SOUND, document="cadence")]) == ["a-b: the id is used 2 times"]


@pytest.mark.parametrize(
    "text",
    [
        '[[rollback]]\nid = "a"\nsays = "x"\nstate = "shown"\ntest = ["x"]',
        '[[rollback]]\nid = "a"\nsays = "x"',
        '[[elsewhere]]\nid = "a"\nsays = "x"\nstate = "shown"',
    ],
)
def test_an_entry_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(text)
    with pytest.raises(SystemExit, match=r"list\.toml"):
        read_requirements(tmp_path / "list.toml")


def test_the_page_counts_and_shows_each_statement_once() -> None:
    some = [replace(SOUND, id=f"x{n}", state=state, note="So it is") for n, state in enumerate([*STATES, "open"])]
    page = requirements_page(some)
    assert "| [rollback](#rollback) | 1 | 1 | 1 | 2 | 5 |" in page and "| all | 1 | 1 | 1 | 2 | 5 |" in page
    assert page.count("- `x3`: So it is") == page.count("- `x4`: So it is") == 1
    assert page.count("It works \\| well.") == 5
    name = "test_a_sound_one_has_no_faults"
    assert f"So it is. [`{name}`](../tests/test_requirements.py), `postmortem plan --params 7e9" in page
    assert "See [docs/run-format.md#journaljsonl](run-format.md#journaljsonl)." in page
