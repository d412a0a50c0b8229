"""Writes what people read: a report in Markdown with pictures, the terminal summary and lessons.md.

All of it comes from a Diagnosis alone.
"""

from __future__ import annotations

from postmortem.report.lessons import add_lesson, check_lessons
from postmortem.report.render import formats, render
from postmortem.report.select import IncidentChoice, select_id
from postmortem.report.summary import summarize
from postmortem.report.write import DIAGNOSIS, check_report, default_out, run_folder, to_bytes, write_report

__all__ = [
    "DIAGNOSIS",
    "IncidentChoice",
    "add_lesson",
    "check_lessons",
    "check_report",
    "default_out",
    "formats",
    "render",
    "run_folder",
    "select_id",
    "summarize",
    "to_bytes",
    "write_report",
]
