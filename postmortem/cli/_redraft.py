"""Drafting the report anew, once replays have shown something."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postmortem.assess.proof import Proof
    from postmortem.diagnosis import Incident


def redraft(run: Path, proof: Proof) -> tuple[Path, Incident]:
    """Write the report on the incident that `proof` is about; (its path, the incident as it stands in it now)."""
    from postmortem import report
    from postmortem.panels import draw_panel
    from postmortem.pipeline import diagnose
    from postmortem.sources import open_run

    diagnosis = diagnose(open_run(run))
    known = next(one for one in diagnosis.incidents if one.key == proof.incident)
    return report.write_report(diagnosis, report.default_out(run), draw=draw_panel, incident=known.id), known
