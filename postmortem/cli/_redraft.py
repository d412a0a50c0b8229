"""Drafting the report anew, once replays have shown something."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postmortem.assess.proof import Proof
    from postmortem.diagnosis import Incident
    from postmortem.pipeline import OpenRuns


def redraft(run: Path, proof: Proof, runs: OpenRuns) -> tuple[Path, Incident]:
    """Write the report on the incident that `proof` is about; (its path, the incident as it stands in it now)."""
    from postmortem import report
    from postmortem.panels import draw_panel

    diagnosis = runs.examined(run).diagnosis()
    known = next(one for one in diagnosis.incidents if one.key == proof.incident)
    return report.write_report(diagnosis, report.default_out(run), draw=draw_panel, incident=known.id), known
