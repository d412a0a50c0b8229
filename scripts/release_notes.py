"""Print the section of CHANGELOG.md for a release; fail if tag, version and changelog do not agree.

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
    match = re.search(r'^__version__ = "([^"]+)"$', (root / VERSION).read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise NotReadyError(f'{VERSION}: there is no line __version__ = "..."')
    return match[1]


def notes_of(changelog: str, version: str) -> str:
    """The section of `version` without its heading. Raises NotReadyError."""
    headings = list(HEADING.finditer(changelog))
    ends = [*(heading.start() for heading in headings[1:]), len(changelog)]
    sections = [(heading, changelog[heading.end() : end].strip()) for heading, end in zip(headings, ends, strict=True)]
    of_version = [(heading["date"], text) for heading, text in sections if heading["name"] == version]
    if len(of_version) != 1:
        how = "there is no section" if not of_version else f"there are {len(of_version)} sections"
        raise NotReadyError(f"{CHANGELOG}: {how} for {version}; a release has one: ## [{version}] - YYYY-MM-DD")
    ((day, text),) = of_version
    if not _is_date(day):
        raise NotReadyError(f"{CHANGELOG}: the heading of {version} has no date: ## [{version}] - YYYY-MM-DD")
    if not re.search(r"^- ", text, re.MULTILINE):
        raise NotReadyError(f"{CHANGELOG}: the section of {version} says nothing")
    if any(heading["name"] == UNRELEASED and text for heading, text in sections):
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
