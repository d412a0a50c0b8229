"""trainer_state.json, the log of Hugging Face's Trainer and of what is built on it, under any name."""

from __future__ import annotations

import re

from postmortem.sources._assemble import row_source
from postmortem.sources._source import Candidate, Confidence, FormatMatch
from postmortem.sources.json_rows import read_table

NAME = "trainer_state.json"
LIMITS = (
    "each train loss is the mean since the row before (logging_steps), so a spike of a single step stands lower in it",
    "a NaN or infinite loss is logged as the mean of those before it, unless logging_nan_inf_filter is off",
)
_HISTORY = re.compile(rb'\A(?:\xef\xbb\xbf)?\s*\{.*"log_history"\s*:\s*\[', re.DOTALL)


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A file of this name, or a JSON object with a `log_history`."""
    if candidate.is_dir:
        return None
    if candidate.name == NAME:
        return FormatMatch(Confidence.CERTAIN, "Hugging Face's Trainer gives its log this name")
    if _HISTORY.match(candidate.head):
        return FormatMatch(Confidence.CERTAIN, "it is a JSON object with a log_history")
    return None


SOURCE = row_source("Hugging Face", "Hugging Face's trainer_state.json", sniff, read_table, limits=LIMITS)
