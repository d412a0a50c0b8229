"""A detector of the spikes of one column, whole runs and row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from postmortem.detectors._column_stream import ColumnStream
from postmortem.detectors._excursion import (
    LiveExcursionSearch,
    excursion_finding,
    excursions,
    noise_runs,
    opens_incident,
)
from postmortem.detectors._model import Detector, Finding, Telemetry
from postmortem.detectors._screen import Rule, screened_column
from postmortem.incident import Kind


def spike_detector(name: str, column: str, rule: Rule, kind: Kind, *, no_stream: str = "") -> Detector:
    """The detector `name` of excursions of `column` above `rule`, all of them of one `kind`; `no_stream` says why it
    has no row-by-row version where it has none."""

    def stream() -> ColumnStream:
        return ColumnStream(
            name,
            column,
            partial(LiveExcursionSearch, rule),
            lambda s, e: (kind.slug, opens_incident(s, e, rule) and noise_runs(s, e, rule) == math.inf),
            one_kind=True,
        )

    return Detector(
        name,
        (kind,),
        lambda t: _findings(t, column, rule, name, kind.slug),
        None if no_stream else stream,
        no_stream,
    )


def _findings(t: Telemetry, column: str, rule: Rule, detector: str, kind: str) -> Iterator[Finding]:
    """The excursions of one column as findings; from `rule.opening` up they open an incident by themselves."""
    s = screened_column(t.series(column))
    if s is None:
        return
    for e in excursions(s, rule):
        yield excursion_finding(s, e, detector, kind, opens_incident(s, e, rule), noise_runs(s, e, rule))
