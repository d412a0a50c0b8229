"""docs/requirements.toml, the list of what the four source documents ask for: read, checked, and written as a page."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from postmortem.cli import app
from postmortem.cli.runs_diff import app as runs_diff

ROOT = Path(__file__).resolve().parent.parent
DATA = Path("docs/requirements.toml")
PAGE = Path("docs/requirements.md")
DOCUMENTS = {
    "rollback": "Rolling back after a loss spike: the watchdog, the rollback to a checkpoint, the skip window",
    "cadence": "How often to checkpoint: three roles, their contents, how many are kept, how a run resumes",
    "recovery": "Automatic recovery from instability: NaN, gradients, memory, hung ranks, policy, event log",
    "post-mortem": "The template of a post-mortem in seven sections, with a worked example",
}
STATES = {
    "shown": "postmortem does it, and the named tests or commands show that",
    "otherwise": "postmortem does something else on purpose, for the given reason",
    "guard": "guard, not built yet: the part that acts on a training by itself",
    "open": "nothing shows it yet",
}
_WRONG_WORDS: Any = typer.BadParameter.__base__  # of click, which newer versions of typer contain under another name


@dataclass(frozen=True)
class Requirement:
    """One statement of a source document, in our words, and what became of it.

    document: a key of DOCUMENTS. state: a key of STATES. note: why it is otherwise, what is missing, or what to know of
    it. tests: `file::test` or `file::Class::test`. commands: lines that a reader can type. see: pages under docs/ or
    other files, each with or without `#heading`.
    """

    id: str
    document: str
    says: str
    state: str
    note: str = ""
    tests: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    see: tuple[str, ...] = ()


def read_requirements(file: Path = ROOT / DATA) -> tuple[Requirement, ...]:
    """The requirements in the order of the file; SystemExit where it has a document or key that is unknown."""
    known = {field.name for field in fields(Requirement)} - {"document"}
    found: list[Requirement] = []
    for document, entries in tomllib.loads(file.read_text("utf-8")).items():
        for entry in entries:
            wrong = entry.keys() - known or {"id", "says", "state"} - entry.keys()
            if document not in DOCUMENTS or wrong:
                raise SystemExit(f"{file}: [[{document}]] {entry.get('id', '')}: unknown or missing: {sorted(wrong)}")
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
            }
            found.append(Requirement(document=document, **values))
    return tuple(found)


def faults(requirements: Sequence[Requirement]) -> list[str]:
    """What is wrong with the list: one line for each fault, with the id of its requirement."""
    again = [f"{id_}: the id is used {n} times" for id_, n in Counter(r.id for r in requirements).items() if n > 1]
    return again + [f"{requirement.id}: {fault}" for requirement in requirements for fault in _faults_of(requirement)]


def _faults_of(one: Requirement) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one.id):
        yield "an id has lower-case words, joined by hyphens"
    if one.state not in STATES:
        yield f"{one.state!r} is no state: choose from {', '.join(STATES)}"
    if one.state == "shown" and not (one.tests or one.commands):
        yield "is shown by no test and no command"
    if one.state in ("otherwise", "open") and not one.note:
        yield f"is {one.state}, and does not say why"
    yield from (f"there is no test {test}" for test in one.tests if not _is_test(test))
    yield from (f"{line!r}: {fault}" for line in one.commands if (fault := _command_fault(line)))
    yield from (f"there is no {place}" for place in one.see if not _is_place(place))


def _is_test(test: str) -> bool:
    file, _, name = test.partition("::")
    path = ROOT / file
    return path.is_file() and path.is_relative_to(ROOT / "tests") and name in _tests_in(path)


@cache
def _tests_in(file: Path) -> frozenset[str]:
    """The names of the tests in a file, as in pytest's node ids, without running it; and those of its classes."""
    names: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            names.add(node.name)
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            inside = (part.name for part in node.body if isinstance(part, ast.FunctionDef))
            names |= {node.name, *(f"{node.name}::{name}" for name in inside if name.startswith("test_"))}
    return frozenset(names)


def _command_fault(line: str) -> str:
    """Why a command line does not parse, "" where it does. The command is not run."""
    program, *words = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return "" if len(words) == 1 and words[0] in targets else "no such target in the Makefile"
    command, group = _commands()
    if program == "postmortem":
        name = words.pop(0) if words else ""
        command = group.commands.get(name)
    elif program != "runs-diff":
        return "begins with none of postmortem, runs-diff and make"
    if command is None:
        return "no such command"
    try:
        command.make_context(program, words).close()
    except _WRONG_WORDS as error:
        return str(error.format_message())
    return ""


@cache
def _commands() -> tuple[Any, Any]:
    """The command runs-diff, and the group postmortem."""
    return typer.main.get_command(runs_diff), typer.main.get_command(app)


def _is_place(place: str) -> bool:
    file, _, heading = place.partition("#")
    path = ROOT / file
    return path.is_file() and (not heading or heading in _headings_in(path))


@cache
def _headings_in(page: Path) -> frozenset[str]:
    """The headings of a Markdown page as links name them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles)


def requirements_page(requirements: Sequence[Requirement]) -> str:
    """The text of PAGE: a summary with counts, and a table for each document."""
    head = (
        "# What was asked for, and what shows it\n\nThis project began with four documents. Here is every statement of "
        "them, in our words, with the test or the\ncommand that shows that postmortem does it, or the reason why it "
        "does not. A test checks that each named test\nexists and that each named command parses "
        "(`tests/test_requirements.py`)."
    )
    meaning = _table(("state", "meaning"), [(f"**{state}**", text) for state, text in STATES.items()])
    parts = [head, meaning, _counts(requirements)]
    for document, title in DOCUMENTS.items():
        own = [one for one in requirements if one.document == document]
        table = _table(("id", "statement", "state", "shown by, or why not"), map(_row, own))
        parts.append(f"## {document[0].upper()}{document[1:]}\n\n{title}.\n\n{table}")
    return "\n\n".join(parts) + "\n"


def _counts(requirements: Sequence[Requirement]) -> str:
    counts = Counter((one.document, one.state) for one in requirements)
    rows = [
        (f"[{document}](#{document})", *(str(counts[document, state]) for state in STATES), str(total))
        for document in DOCUMENTS
        if (total := sum(counts[document, state] for state in STATES))
    ]
    sums = [str(sum(one.state == state for one in requirements)) for state in STATES]
    rows.append(("all", *sums, str(len(requirements))))
    missing = [f"- `{one.id}`: {one.note}" for one in requirements if one.state == "open"]
    listed = "\n\nOpen:\n\n" + "\n".join(missing) if missing else ""
    return _table(("document", *STATES, "all"), rows) + listed


def _row(one: Requirement) -> tuple[str, ...]:
    tests = [f"[`{test.partition('::')[2]}`](../{test.partition('::')[0]})" for test in one.tests]
    see = [f"[{place}]({_from_the_page(place)})" for place in one.see]
    proof = ", ".join([*tests, *(f"`{line}`" for line in one.commands)])
    note = one.note if not one.note or one.note.endswith(".") else f"{one.note}."
    cell = " ".join(part for part in (note, proof, f"See {', '.join(see)}." if see else "") if part)
    return (f"`{one.id}`", one.says, one.state, cell)


def _from_the_page(place: str) -> str:
    """A path of the repository as a link on PAGE."""
    return place.removeprefix("docs/") if place.startswith("docs/") else f"../{place}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
