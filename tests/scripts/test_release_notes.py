"""A release is made only where tag, version and changelog agree; what does not is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.release_notes import CHANGELOG, VERSION, NotReadyError, main, notes_of, release_notes, version_of
from tests.samples import ROOT

TEXT = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- A door ([docs](docs/door.md)).

## [0.1.0] - 2026-11-28

- The house.
"""


def checkout(folder: Path, version: str = "0.2.0", changelog: str = TEXT) -> Path:
    (folder / VERSION).parent.mkdir()
    (folder / VERSION).write_text(f'"""The version."""\n\n__version__ = "{version}"\n')
    (folder / CHANGELOG).write_text(changelog)
    return folder


def test_the_notes_are_the_section_of_the_version(tmp_path: Path) -> None:
    assert release_notes("v0.2.0", checkout(tmp_path)) == "### Added\n\n- A door ([docs](docs/door.md)).\n"


def test_the_last_section_ends_with_the_file() -> None:
    assert notes_of(TEXT, "0.1.0") == "- The house.\n"


@pytest.mark.parametrize("tag", ["0.2.0", "v0.1.0", "v0.2", "v0.2.0rc1", "V0.2.0", "", "v0.2.0\n"])
def test_the_tag_is_the_version(tag: str, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"the tag of that version is v0\.2\.0"):
        release_notes(tag, checkout(tmp_path))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("## [0.2.0] - 2026-12-01", "## [0.3.0] - 2026-12-01", "no section for 0.2.0"),
        ("[0.2.0]", "[0x2x0]", "no section for 0.2.0"),
        ("## [0.1.0] - 2026-11-28", "## [0.2.0] - 2026-11-28", "2 sections for 0.2.0"),
        ("## [0.2.0] - 2026-12-01", "## [0.2.0]", "has no date"),
        ("2026-12-01", "2026-13-01", "has no date"),
        ("2026-12-01", "20261201", "has no date"),
        ("2026-12-01", "soon", "has no date"),
        ("- A door", "A door", "says nothing"),
        ("## [Unreleased]", "## [Unreleased]\n\n- A window.", "is not empty"),
    ],
)
def test_what_the_changelog_lacks_is_said(before: str, after: str, said: str) -> None:
    assert before in TEXT
    with pytest.raises(NotReadyError, match=said):
        notes_of(TEXT.replace(before, after), "0.2.0")


def test_a_version_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    checkout(tmp_path)
    (tmp_path / VERSION).write_text("__version__ = make()\n")
    with pytest.raises(NotReadyError, match="there is no line"):
        version_of(tmp_path)


def test_the_version_of_this_checkout_is_read_without_an_import() -> None:
    import postmortem

    assert version_of(ROOT) == postmortem.__version__


@pytest.mark.parametrize(("words", "said"), [([], "usage"), (["v9.9.9"], "not ready for a release: the tag is v9.9.9")])
def test_the_command_fails_with_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert isinstance(end.value.code, str) and end.value.code.startswith(said)
    assert not capsys.readouterr().out
