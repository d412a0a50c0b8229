"""The rows of Hugging Face's Trainer as JSON lines: LLaMA-Factory's trainer_log.jsonl and ms-swift's logging.jsonl."""

from __future__ import annotations

from postmortem.sources._assemble import row_source
from postmortem.sources._shape import json_lines
from postmortem.sources._source import Candidate, Confidence, FormatMatch
from postmortem.sources.hugging_face import LIMITS
from postmortem.sources.jsonl_rows import read_table

_LLAMA_FACTORY = frozenset(("current_steps", "total_steps"))
_MS_SWIFT = frozenset(("global_step/max_steps",))


def sniff(candidate: Candidate) -> FormatMatch | None:
    """JSON lines with the step columns of one of the two."""
    for row in json_lines(candidate):
        for names, tool in ((_LLAMA_FACTORY, "LLaMA-Factory"), (_MS_SWIFT, "ms-swift")):
            if names <= row.keys():
                return FormatMatch(Confidence.CERTAIN, f"its lines have {tool}'s {', '.join(sorted(names))}")
    return None


SOURCE = row_source("Trainer lines", "", sniff, read_table, limits=LIMITS)
