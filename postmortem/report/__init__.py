"""Everything a person reads: Markdown, pictures, the terminal summary and lessons.md, from a Diagnosis alone."""

from __future__ import annotations

from postmortem.report.lessons import add_lesson, check_lessons
from postmortem.report.render import formats, render
from postmortem.report.select import select
from postmortem.report.summary import summarize
from postmortem.report.write import DIAGNOSIS, default_out, to_bytes, write_report

__all__ = [
    "DIAGNOSIS",
    "add_lesson",
    "check_lessons",
    "default_out",
    "formats",
    "render",
    "select",
    "summarize",
    "to_bytes",
    "write_report",
]
