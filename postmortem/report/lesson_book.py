"""The text of lessons.md: what a learner keeps, and where the lines that this tool wrote stand in it.

The file belongs to the person. A line of ours ends in a comment, which a Markdown viewer does not show, with the
incident that it is about, its verdict, and a hash of the text before it: so a line that somebody edited is recognized,
and never touched. A heading of ours ends in one with the run's folder and id. Lines are told apart by `\\n` alone; a
`\\r` before it stays part of its line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from postmortem.diagnosis import Verdict
from postmortem.report.markdown import escape
from postmortem.report.wording import as_sentence, verdict_words

TITLE = "# Lessons"
CONFIRMED, SUSPECTED = "## Confirmed", "## Suspected"

_MARK, _MARKED = "<!-- lesson ", re.compile(r"([0-9a-f]{12}) ([a-z_]+) ([0-9a-f]{12}) -->\s*")
_RUN, _OF_RUN = "<!-- run ", re.compile(r"(\S+) (\S+) -->\s*")
_LINK = " ([report]("


@dataclass(frozen=True)
class Lesson:
    """What a notebook keeps of one incident.

    `folder`: the run, as a path from the notebook's folder; `incident`: the incident's key as text; `sentence`: what
    happened in this run; `advice`: §7 of its report; `link`: the report, as a path from the notebook's folder, or "".
    """

    run_id: str
    folder: str
    date: str
    incident: str
    onset_step: int
    verdict: Verdict
    sentence: str
    advice: str
    link: str

    @property
    def key(self) -> str:
        """Which incident of which run it is, in twelve hexadecimal digits."""
        return _hash(f"{self.folder}\n{self.incident}")

    @property
    def section(self) -> str:
        """The heading under which it stands."""
        return CONFIRMED if self.verdict == "confirmed" else SUSPECTED

    @property
    def text(self) -> str:
        """Its line without link and mark."""
        texts = " ".join(escape(as_sentence(text)) for text in (self.sentence, self.advice) if text)
        return f"- **Step {self.onset_step}, {verdict_words(self.verdict)}.** {texts}"

    def line(self) -> str:
        """Its line, with link and mark."""
        body = f"{self.text}{_LINK}{self.link}))" if self.link else self.text
        return f"{body} <!-- lesson {self.key} {self.verdict} {_hash(body)} -->"


def enter(text: str, lesson: Lesson, *, undecided: bool = False) -> str | None:
    """The notebook `text` with `lesson` in it; None where it stays as it is.

    - A line about the same incident that nobody edited is replaced, if verdict or text differ.
    - Beside a line that somebody edited, a new one is entered only if the verdict is another one.
    - What the code before this one entered, which has no mark, counts as edited, with a verdict by the panels.
    - An undecided incident is entered only with `undecided`, or instead of a line that says something else.
    - Advice that stands in the notebook already is not repeated, and an undecided incident that has no other is not
      entered.
    """
    end = "\r" if "\r\n" in text else ""
    lines = text.split("\n")
    lesson, undecided = _without_known_advice(lesson, lines, undecided=undecided)
    entries = [(number, entry) for number, line in enumerate(lines) if (entry := _entry(line)) is not None]
    own = [(number, entry) for number, entry in entries if entry.key == lesson.key]
    unedited = [(number, entry) for number, entry in own if entry.unedited]
    if unedited:
        if any(_without_link(entry.body) == lesson.text for _, entry in unedited):
            return None
        lines = _replaced(lines, unedited[0][0], lesson, end)
    elif (
        any(entry.verdict == lesson.verdict for _, entry in own)
        or (lesson.verdict == "undecided" and not undecided)
        or any(_is_unmarked(line, lesson) for line in lines)
    ):
        return None
    else:
        lines = _inserted(lines, lesson, end)
    return "\n".join(lines)


def _without_known_advice(lesson: Lesson, lines: Sequence[str], *, undecided: bool) -> tuple[Lesson, bool]:
    """(the lesson without advice that a line about something else gives already, whether it is entered undecided)."""
    advice = escape(as_sentence(lesson.advice))
    others = (line for line in lines if (entry := _entry(line)) is None or entry.key != lesson.key)
    if not advice or any(advice in line for line in others):
        return replace(lesson, advice=""), False
    return lesson, undecided


@dataclass(frozen=True)
class _Entry:
    """A line with a mark: its text before the mark, and what the mark says."""

    body: str
    key: str
    verdict: str
    hash: str

    @property
    def unedited(self) -> bool:
        return self.hash == _hash(self.body)


def _entry(line: str) -> _Entry | None:
    body, marker, mark = line.rpartition(_MARK)
    match = _MARKED.fullmatch(mark) if marker else None
    return _Entry(body.rstrip(), *match.groups()) if match else None


@dataclass(frozen=True)
class _RunHeading:
    """A heading with a mark: its text before the mark, and the run's folder and id as the mark quotes them."""

    shown: str
    folder: str
    run_id: str


def _run_heading(line: str) -> _RunHeading | None:
    shown, marker, mark = line.rpartition(_RUN)
    match = _OF_RUN.fullmatch(mark) if marker and _level(line) else None
    return _RunHeading(shown.rstrip(), *match.groups()) if match else None


def _replaced(lines: list[str], number: int, lesson: Lesson, end: str) -> list[str]:
    """`lines` with `lesson` instead of the line `number`: at its place, or in the section of its new verdict."""
    section = next((line.strip() for line in reversed(lines[:number]) if line.startswith("## ")), "")
    if section in (CONFIRMED, SUSPECTED) and section != lesson.section:
        return _inserted(_without(lines, number), lesson, end)
    return [*lines[:number], lesson.line() + ("\r" if lines[number].endswith("\r") else ""), *lines[number + 1 :]]


def _without(lines: list[str], number: int) -> list[str]:
    """`lines` without the line `number`, and without those of our headings above it below which nothing is left."""
    before, after = lines[:number], lines[number + 1 :]
    while True:
        heading = next((n for n in range(len(before) - 1, -1, -1) if before[n].strip()), -1)
        following = next((line for line in after if line.strip()), "# end")
        above = before[heading].strip() if heading >= 0 else ""
        is_ours = above in (CONFIRMED, SUSPECTED) or _run_heading(above) is not None
        if not is_ours or not 0 < _level(following) <= _level(above):
            return before + after
        del before[heading:]
        while len(after) > 1 and not after[0].strip():
            del after[0]


def _inserted(lines: list[str], lesson: Lesson, end: str) -> list[str]:
    """`lines` with `lesson` as the last one below its run's heading, in the section of its verdict."""
    runs = [(number, run) for number, line in enumerate(lines) if (run := _run_heading(line)) is not None]
    id_mark, folder_mark = _quoted(lesson.run_id), _quoted(lesson.folder)
    namesakes = [(number, run) for number, run in runs if run.run_id == id_mark and run.folder != folder_mark]
    lines = list(lines)
    for number, run in namesakes:
        lines[number] = _by_folder(lines[number], run, lesson.run_id)
    date = f" ({escape(lesson.date)})" if lesson.date else ""
    heading = f"### {escape(lesson.folder if namesakes else lesson.run_id)}{date} <!-- run {folder_mark} {id_mark} -->"
    first = next((number for number, line in enumerate(lines) if line.strip() == lesson.section), None)
    if first is None:
        title = [TITLE] if lines == [""] else []
        others = (number for number, line in enumerate(lines) if line.strip() == SUSPECTED)
        return _put(lines, next(others, len(lines)), [*title, lesson.section, heading, lesson.line()], end)
    last = _end_of_part(lines, first)
    own = next((number for number, run in runs if first < number < last and run.folder == folder_mark), None)
    if own is None:
        return _put(lines, last, [heading, lesson.line()], end)
    return _put(lines, _end_of_part(lines, own), [lesson.line()], end)


def _by_folder(line: str, run: _RunHeading, run_id: str) -> str:
    """The heading of another run with the same id, which names the folder now unless somebody edited it."""
    shown = re.fullmatch(rf"### {re.escape(escape(run_id))}(?P<date> \([^()]*\))?", run.shown)
    if shown is None:
        return line
    return f"### {escape(unquote(run.folder))}{shown['date'] or ''}{line.removeprefix(run.shown)}"


def _put(lines: Sequence[str], number: int, blocks: Sequence[str], end: str) -> list[str]:
    """`lines` with `blocks` before the line `number`, between empty lines; only the items of a list have none between
    them. At the end of the file, all of it stays before them."""
    lines = list(lines)
    if number == len(lines) and lines[-1]:  # the last line has no end
        lines = [*lines[:-1], lines[-1] + end, ""]
        number = len(lines) - 1
    elif number == len(lines):
        number -= 1
    else:
        while number and not lines[number - 1].strip():
            number -= 1
    new: list[str] = []
    for block in blocks:
        above = new[-1] if new else lines[number - 1] if number else ""
        continues_list = block.startswith("- ") and above.startswith(("- ", " ", "\t"))
        if above.strip() and not continues_list:
            new.append(end)
        new.append(block + end)
    if lines[number].strip():
        new.append(end)
    return [*lines[:number], *new, *lines[number:]]


def _end_of_part(lines: Sequence[str], heading: int) -> int:
    """The number of the line that ends the part below the line `heading`."""
    level = _level(lines[heading])
    return next((n for n in range(heading + 1, len(lines)) if 0 < _level(lines[n]) <= level), len(lines))


def _level(line: str) -> int:
    """The level of a heading, from 1 on; 0 for any other line."""
    marks = len(line) - len(line.lstrip("#"))
    return marks if line[marks : marks + 1] == " " else 0


def _without_link(body: str) -> str:
    return body.rpartition(_LINK)[0] or body if body.endswith("))") else body


def _is_unmarked(line: str, lesson: Lesson) -> bool:
    """Whether `line` is about the same incident, as the code before this one entered it: without verdict and mark."""
    date, _, rest = line.strip().removeprefix("- ").partition(" · ")
    if not re.fullmatch(r"undated|[\d-]{10}", date) or lesson.verdict not in ("supported", "undecided"):
        return False
    about = rest.startswith(f"{escape(lesson.run_id)} · step {lesson.onset_step} · ")
    return about and (not lesson.link or _LINK not in rest or rest.endswith(f"{_LINK}{lesson.link}))"))


def _quoted(name: str) -> str:
    """`name` for a comment, in which no `--` may stand."""
    return quote(name, safe="/.~:@+,=()").replace("--", "%2D%2D")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
