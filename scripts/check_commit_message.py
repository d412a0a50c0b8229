"""Check that commit messages have the form that CONTRIBUTING.md describes; print what is wrong, and fail.

    python scripts/check_commit_message.py FILE              as git calls its commit-msg hook
    python scripts/check_commit_message.py --range A..B      each commit of a range, as CI does for a pull request

Merges are not checked. Nor are, in the hook only, commits that wait to be squashed (`fixup!`, `squash!`, `amend!`).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LONGEST = 72  # characters of a subject: as many as a log shows in a terminal of 80 columns
WAITING = ("fixup! ", "squash! ", "amend! ")
SCISSORS = "# ------------------------ >8 ------------------------"  # below it, `git commit -v` shows the diff
TRAILER = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*-by: .+")  # says who, not why
# A first word with one of these endings is not an imperative, except the words of IMPERATIVE.
NOT_IMPERATIVE = re.compile(r"[A-Za-z]{2,}(?:ed|ing)")
IMPERATIVE = {"Bring", "Embed", "Exceed", "Feed", "Ping", "Proceed", "Seed", "Shed", "Shred", "Sing", "Speed", "Spring"}


def faults(message: str) -> list[str]:
    """What is wrong with a whole message, in words; empty if nothing is. Merges have no fault."""
    subject, *rest = message.strip().split("\n")
    if subject.startswith("Merge "):
        return []
    if subject.startswith(WAITING):
        return ["it waits to be squashed"]
    problems: list[str] = []
    if not subject:
        problems.append("it is empty")
    elif not subject[0].isupper():
        problems.append("the subject does not begin with a capital letter")
    word = re.split(r"\W", subject, maxsplit=1)[0]
    if NOT_IMPERATIVE.fullmatch(word) and word not in IMPERATIVE:
        problems.append(f'the subject begins with "{word}": say what it does, as in "Add", not "Added" or "Adding"')
    if subject.endswith("."):
        problems.append("the subject ends in a period")
    if len(subject) > LONGEST and not subject.startswith('Revert "'):
        problems.append(f"the subject has {len(subject)} characters, and {LONGEST} are the most")
    if rest and rest[0].strip():
        problems.append("there is no empty line below the subject")
    if not any(line.strip() and not TRAILER.fullmatch(line.strip()) for line in rest):
        problems.append("there is no body: say why, in a sentence at least")
    return problems


def as_committed(text: str) -> str:
    """The part of the text in an editor that git will keep: no comments, and nothing below the scissors."""
    lines = text.partition(SCISSORS)[0].splitlines()
    return "\n".join(line.rstrip() for line in lines if not line.startswith("#")).strip()


def messages(commits: str) -> dict[str, str]:
    """Short hash → message of each commit in the range `commits`, oldest first, without merges."""
    command = ("git", "log", "--reverse", "--no-merges", "-z", "--format=%h%n%B", commits)
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"git cannot list {commits}: {process.stderr.strip()}")
    entries = [entry.partition("\n") for entry in process.stdout.split("\0") if entry.strip()]
    return {name.strip(): text for name, _, text in entries}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", type=Path, help="file with the message of one commit")
    source.add_argument("--range", metavar="A..B", help="commits to look at")
    arguments = parser.parse_args(words)
    if arguments.range:
        judged = {name: (text.strip(), faults(text)) for name, text in messages(arguments.range).items()}
    else:
        text = as_committed(arguments.file.read_text(encoding="utf-8"))
        judged = {} if not text or text.startswith(WAITING) else {"this commit": (text, faults(text))}
    for name, (text, problems) in judged.items():
        for fault in problems:
            print(f"{name} ({text.partition(chr(10))[0][:LONGEST]}): {fault}", file=sys.stderr)
    if any(problems for _, problems in judged.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
