"""A detector of the spikes of one column, whole runs and row by row."""

from __future__ import annotations

from functools import partial

from postmortem.detectors._column_stream import ColumnStream
from postmortem.detectors._excursion import LiveExcursionSearch, opens_incident, spike_findings
from postmortem.detectors._model import Detector
from postmortem.detectors._screen import Rule
from postmortem.incident import Kind


def spike_detector(name: str, column: str, rule: Rule, kind: Kind, *, no_stream: str = "") -> Detector:
    """The detector `name` of excursions of `column` above `rule`, all of them of one `kind`; `no_stream` says why it
    has no row-by-row version where it has none."""

    def stream() -> ColumnStream:
        return ColumnStream(
            name,
            column,
            partial(LiveExcursionSearch, rule),
            lambda s, e: (kind.slug, opens_incident(s, e, rule)),
            one_kind=True,
        )

    return Detector(
        name,
        (kind,),
        lambda t: spike_findings(t, column, rule, name, kind.slug),
        None if no_stream else stream,
        no_stream,
    )
