"""Hold commit messages to the form that CONTRIBUTING.md describes; say what is amiss, and fail.

    python scripts/check_commit_message.py FILE              as git calls its commit-msg hook
    python scripts/check_commit_message.py --range A..B      each commit of a range, as CI does for a pull request

Merges are left alone. So are, in the hook only, commits that wait to be squashed (`fixup!`, `squash!`, `amend!`).
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
# A first word that ends so is no imperative, but for these.
NOT_IMPERATIVE = re.compile(r"[A-Za-z]{2,}(?:ed|ing)")
IMPERATIVE = {"Bring", "Embed", "Exceed", "Feed", "Ping", "Proceed", "Seed", "Shed", "Shred", "Sing", "Speed", "Spring"}


def faults(message: str) -> list[str]:
    """What is amiss with a whole message, in words; empty where nothing is. Merges have no fault."""
    subject, *rest = message.strip().split("\n")
    if subject.startswith("Merge "):
        return []
    if subject.startswith(WAITING):
        return ["it waits to be squashed"]
    found = []
    if not subject:
        found.append("it is empty")
    elif not subject[0].isupper():
        found.append("the subject does not begin with a capital letter")
    word = re.split(r"\W", subject, maxsplit=1)[0]
    if NOT_IMPERATIVE.fullmatch(word) and word not in IMPERATIVE:
        found.append(f'the subject begins with "{word}": say what it does, as in "Add", not "Added" or "Adding"')
    if subject.endswith("."):
        found.append("the subject ends in a period")
    if len(subject) > LONGEST and not subject.startswith('Revert "'):
        found.append(f"the subject has {len(subject)} characters, and {LONGEST} are the most")
    if rest and rest[0].strip():
        found.append("there is no empty line below the subject")
    if not any(line.strip() and not TRAILER.fullmatch(line.strip()) for line in rest):
        found.append("there is no body: say why, in a sentence at least")
    return found


def as_committed(text: str) -> str:
    """What git will keep of the text in an editor: no comments, and nothing below the scissors."""
    kept = text.partition(SCISSORS)[0].splitlines()
    return "\n".join(line.rstrip() for line in kept if not line.startswith("#")).strip()


def messages(commits: str) -> dict[str, str]:
    """Short hash → message of each commit in the range `commits`, oldest first, without merges."""
    command = ("git", "log", "--reverse", "--no-merges", "-z", "--format=%h%n%B", commits)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git cannot list {commits}: {done.stderr.strip()}")
    entries = [one.partition("\n") for one in done.stdout.split("\0") if one.strip()]
    return {name.strip(): text for name, _, text in entries}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", type=Path, help="file with the message of one commit")
    what.add_argument("--range", metavar="A..B", help="commits to look at")
    asked = parser.parse_args(words)
    if asked.range:
        judged = {name: (text.strip(), faults(text)) for name, text in messages(asked.range).items()}
    else:
        text = as_committed(asked.file.read_text(encoding="utf-8"))
        judged = {} if not text or text.startswith(WAITING) else {"this commit": (text, faults(text))}
    for name, (text, found) in judged.items():
        for fault in found:
            print(f"{name} ({text.partition(chr(10))[0][:LONGEST]}): {fault}", file=sys.stderr)
    if any(found for _, found in judged.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
