"""JSON lines of detectron2 (metrics.json) and of OpenMMLab's toolboxes (scalars.json, *.log.json)."""

from __future__ import annotations

from postmortem.sources._assemble import row_source
from postmortem.sources._shape import counts_steps, json_lines
from postmortem.sources._source import Candidate, Confidence, FormatMatch
from postmortem.sources.jsonl_rows import read_table

_MARK = "data_time"  # seconds that an iteration waited for its data: both write it beside `time`
_COLUMNS = {"time": "step_time_s", "total_loss": "loss"}


def sniff(candidate: Candidate) -> FormatMatch | None:
    """JSON lines that count iterations and say how long each waited for its data."""
    if any(_MARK in row and counts_steps(row) for row in json_lines(candidate)):
        return FormatMatch(Confidence.CERTAIN, f"its lines have the {_MARK} of detectron2 and OpenMMLab")
    return None


SOURCE = row_source(
    "detectron2 or OpenMMLab",
    "",
    sniff,
    read_table,
    columns=_COLUMNS,
    limits=(
        "each loss is that of several iterations (detectron2: the median of 20, OpenMMLab: a mean): spikes are low",
    ),
)
