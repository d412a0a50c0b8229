"""The CSV that TensorBoard downloads: `Wall time,Step,Value` of one tag, which stands in the name of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from postmortem.run.naming import assign_columns
from postmortem.run.table import Table
from postmortem.sources._assemble import row_source
from postmortem.sources._source import Candidate, CanonicalNames, Confidence, FormatMatch
from postmortem.sources.csv_rows import read_table

_HEADER = ("wall time", "step", "value")
_TAG = re.compile(r"(?:.*[-_])?tag[-_](?P<tag>.+)", re.IGNORECASE)
_COPY = re.compile(r"\s*\(\d+\)$")  # a browser's second download


def sniff(candidate: Candidate) -> FormatMatch | None:
    """A .csv whose header is TensorBoard's."""
    header = candidate.head.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode(errors="replace")
    if candidate.ending != ".csv" or tuple(name.strip(' "\r').lower() for name in header.split(",")) != _HEADER:
        return None
    return FormatMatch(Confidence.LIKELY, "its header is that of TensorBoard's CSV download")


def columns(table: Table, mapping: Mapping[str, str]) -> CanonicalNames:
    """What `Value` is, by the tag in the file's name; only the time and the step where --map says what it is, or where
    the tag is unknown."""
    if len(table.names) != len(_HEADER):
        return {}
    wall_time, step, value = table.names
    known = {wall_time: "time", step: "step"}
    if value in mapping.values():
        return known
    stem = _COPY.sub("", table.display_name.rsplit(".", 1)[0])
    match = _TAG.fullmatch(stem)
    meaning = _meaning(match["tag"] if match else stem)
    return known | ({value: meaning} if meaning else {})


def _meaning(tag: str) -> str | None:
    """The canonical column of a tag, in which the file's name has `_` for every `/`."""
    at = [i for i, char in enumerate(tag) if char == "_"]
    for name in (tag, *(f"{tag[:i]}/{tag[i + 1 :]}" for i in at)):
        for canonical in assign_columns((name,), {}, {}, "").logged_as:
            if canonical != "step":
                return canonical
    return None


SOURCE = row_source("TensorBoard CSV", "", sniff, read_table, columns=columns)
