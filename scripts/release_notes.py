"""Print what CHANGELOG.md says of a release, once tag, version and changelog agree; else say what does not, and fail.

    python scripts/release_notes.py v0.2.0 > notes.md

The tag is `v` and the version in postmortem/version.py. The changelog has one section for that version, with its date,
and nothing is left under [Unreleased].
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG, VERSION = Path("CHANGELOG.md"), Path("postmortem/version.py")
HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\S+))?[ \t]*$", re.MULTILINE)
UNRELEASED = "Unreleased"


class NotReadyError(Exception):
    """The release cannot be made yet; the message says what to change."""


def version_of(root: Path) -> str:
    """The version that the checkout at `root` has, without importing the package."""
    found = re.search(r'^__version__ = "([^"]+)"$', (root / VERSION).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise NotReadyError(f'{VERSION}: there is no line __version__ = "..."')
    return found[1]


def notes_of(changelog: str, version: str) -> str:
    """The section of `version` without its heading. Raises NotReadyError."""
    headings = list(HEADING.finditer(changelog))
    ends = [*(one.start() for one in headings[1:]), len(changelog)]
    sections = [(one, changelog[one.end() : end].strip()) for one, end in zip(headings, ends, strict=True)]
    mine = [(one["date"], text) for one, text in sections if one["name"] == version]
    if len(mine) != 1:
        how = "there is no section" if not mine else f"there are {len(mine)} sections"
        raise NotReadyError(f"{CHANGELOG}: {how} for {version}; a release has one: ## [{version}] - YYYY-MM-DD")
    ((day, text),) = mine
    if not _is_date(day):
        raise NotReadyError(f"{CHANGELOG}: the heading of {version} has no date: ## [{version}] - YYYY-MM-DD")
    if not re.search(r"^- ", text, re.MULTILINE):
        raise NotReadyError(f"{CHANGELOG}: the section of {version} says nothing")
    left = [text for one, text in sections if one["name"] == UNRELEASED and text]
    if left:
        raise NotReadyError(f"{CHANGELOG}: [{UNRELEASED}] is not empty; move what it says to [{version}]")
    return f"{text}\n"


def release_notes(tag: str, root: Path) -> str:
    """The notes of the release that `tag` names, from the checkout at `root`. Raises NotReadyError."""
    version = version_of(root)
    if tag != f"v{version}":
        raise NotReadyError(f"the tag is {tag}, and {VERSION} says {version}; the tag of that version is v{version}")
    return notes_of((root / CHANGELOG).read_text(encoding="utf-8"), version)


def _is_date(text: str | None) -> bool:
    if text is None or not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def main(words: Sequence[str]) -> None:
    if len(words) != 1:
        raise SystemExit("usage: python scripts/release_notes.py TAG")
    try:
        sys.stdout.write(release_notes(words[0], ROOT))
    except NotReadyError as error:
        raise SystemExit(f"not ready for a release: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
