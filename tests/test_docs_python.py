"""docs/python.md, line by line: its blocks run in their order and print what the page says. Docstrings likewise."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import postmortem as pm
from tests.samples import sample

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"^```(pycon|python)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def beside_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is one that may be written to, and holds the runs under the names that the page gives them."""
    (tmp_path / "sample_runs").mkdir()
    for name in ("19-clean-001", "19-spike-001", "20-run-004"):
        (tmp_path / "sample_runs" / name).symlink_to(sample(name))
    monkeypatch.chdir(tmp_path)


def check(examples: list[doctest.Example], names: dict[str, object], where: str) -> None:
    told: list[str] = []
    test = doctest.DocTest(examples, {}, where, None, None, None)
    test.globs = names  # DocTest itself would copy them, and the next block goes on from here
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=told.append, clear_globs=False)
    assert examples and not told, "".join(told)


@pytest.mark.usefixtures("beside_the_samples")
def test_the_page_as_it_is_printed() -> None:
    pytest.importorskip("xxhash")
    names: dict[str, object] = {}
    for language, block in BLOCKS:
        if language == "pycon":
            check(doctest.DocTestParser().get_examples(block), names, "docs/python.md")
        else:
            exec(block, names)


@pytest.mark.usefixtures("beside_the_samples")
@pytest.mark.parametrize(
    "shown", [pm.open_run, pm.diagnose, pm.compare, pm.Recorder, pm.Run.to_pandas], ids=lambda f: f.__name__
)
def test_the_examples_of_the_docstrings(shown: object) -> None:
    check(doctest.DocTestParser().get_examples(shown.__doc__ or ""), {"pm": pm}, "docstring")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
