"""Public cases: what is said of them, and what has to be said (`expected.json`, `cases.json`).

The cases are in a folder beside the repository. They are read and diagnosed as by `postmortem draft`, without --map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postmortem.assess.detection import detect
from postmortem.assess.verification import verify
from postmortem.diagnosis import Diagnosis, Incident
from postmortem.errors import UnreadableInput
from postmortem.pipeline import diagnose
from postmortem.report import select_id, summarize
from postmortem.report.select import IncidentChoice
from postmortem.run import Run
from postmortem.sources import open_run
from tests.samples import NAMES, ROOT, sample

REPORTS = ROOT.parent / "shared" / "public_reports"
LOGS = ROOT.parent / "shared" / "real_logs"
READABLE = (".csv", ".json", ".jsonl")
MISLEADING = 0.6  # a probability from which a wrong first cause misleads


@dataclass(frozen=True)
class Read:
    """A log as the tool reads it, or the reason why it refuses it."""

    run: Run | None
    diagnosis: Diagnosis | None
    refused: str = ""

    @property
    def worst(self) -> Incident | None:
        """The incident that a draft tells of first."""
        return self.diagnosis.incidents[0] if self.diagnosis and self.diagnosis.incidents else None

    @property
    def text(self) -> str:
        """All sentences: the summary, and what the panels say of each incident."""
        if self.diagnosis is None:
            return self.refused
        sentences = ["".join(span.text for span in line) for line in summarize(self.diagnosis)]
        for incident in self.diagnosis.incidents:
            sentences += [incident.summary, *(panel.summary for panel in incident.panels)]
            sentences += [evidence.text for evidence in incident.evidence]
        return "\n".join(sentences)


def read(path: Path) -> Read:
    """The log at `path`, read and diagnosed as a draft does."""
    try:
        run = open_run(path)
    except UnreadableInput as error:
        return Read(None, None, str(error))
    return Read(run, diagnose(run))


@dataclass(frozen=True)
class Judged:
    """One public report, and what of it came out right."""

    name: str
    incident: bool
    onset: bool
    outcome: bool
    cause: str
    verification_fails: bool
    said: str

    @property
    def right(self) -> bool:
        """Whether incident, onset and outcome are as expected."""
        return self.incident and self.onset and self.outcome


def reports() -> list[Path]:
    """The folders of the public reports."""
    return sorted(path.parent for path in REPORTS.glob("*/expected.json"))


def judge(folder: Path) -> Judged:
    """Compare what a draft says of a public report with what is expected of it."""
    expected = json.loads((folder / "expected.json").read_text())
    if expected.get("diff"):
        both = [read(path) for path in sorted(folder.glob("*/input"))]
        incident = all((r.worst is not None) == expected["incident"] for r in both)
        return Judged(folder.name, incident, True, True, "–", True, "; ".join(said(r) for r in both))
    result = read(folder / "input")
    worst = result.worst
    is_open = expected["incident"] == "open"
    wanted = expected["incident"] is True or worst is not None
    return Judged(
        folder.name,
        result.run is not None and (is_open or (worst is not None) == expected["incident"]),
        not wanted or (worst is not None and _begins_in(worst, expected["onset"])),
        not wanted or (worst is not None and _may_be(worst.outcome, expected["outcome"])),
        _cause(worst, expected["cause"]),
        not passes_itself(result),
        said(result),
    )


def _begins_in(incident: Incident, onset: Sequence[int] | None) -> bool:
    return onset is None or onset[0] <= incident.onset_step <= onset[1]


def _may_be(outcome: str, expected: Sequence[str | None] | None) -> bool:
    return expected is None or outcome in expected


def _cause(incident: Incident | None, expected: Sequence[str | None]) -> str:
    """The first hypothesis: right, not known, or misleading."""
    if incident is None or not incident.hypotheses:
        return "–"
    best = incident.hypotheses[0]
    if best.cause in expected:
        return "right"
    return "misleading" if best.cause != "unknown" and best.probability > MISLEADING else "not known"


def said(result: Read) -> str:
    """The worst incident in a few words, or the verdict."""
    if result.diagnosis is None:
        return "refused"
    worst = result.worst
    if worst is None:
        return result.diagnosis.verdict.replace("_", " ")
    begins = (
        f"steps {worst.onset_interval[0] + 1}–{worst.onset_step}" if worst.onset_interval else f"{worst.onset_step}"
    )
    return f"{worst.title} at {begins}, {worst.outcome}"


def _incidents(result: Read) -> Sequence[Incident]:
    return () if result.diagnosis is None else result.diagnosis.incidents


def _rows(result: Read) -> int:
    return 0 if result.run is None else int(result.run.row_steps.size)


def _lost_at_start(result: Read) -> bool:
    worst = result.worst
    return worst is not None and result.run is not None and bool(worst.onset_step <= result.run.row_steps[4])


def _reinitialized(result: Read) -> bool:
    begun = {i.onset_step for i in _incidents(result) if i.kind == "reinitialization"}
    return {80_000, 160_000} <= begun and "step 0" in result.text


def _no_false_fall(result: Read) -> bool:
    lines = [line for line in result.text.splitlines() if "fell" in line or "falls" in line]
    return bool(_incidents(result)) and not any("inf" in line.lower() or "nan" in line.lower() for line in lines)


def _every_incident_reached(result: Read) -> bool:
    if result.run is None:
        return False
    for found in detect(result.run):
        diagnosis = diagnose(result.run, asked=IncidentChoice(at=found.onset_step))
        number = select_id(diagnosis, at=found.onset_step)
        if not any(i.id == number and i.key == found.key for i in diagnosis.incidents):
            return False
    return True


def _eval_only(result: Read) -> bool:
    return any(any(s.column == "eval_loss" for s in i.signals) for i in _incidents(result))


def _loss_before(result: Read) -> float:
    symptoms = [s for s in result.worst.symptoms if s.key == "pre_spike_loss"] if result.worst else []
    return float(symptoms[0].value) if symptoms and isinstance(symptoms[0].value, float) else math.nan


CHECKS: Mapping[str, Callable[[Read], bool]] = {
    "06_early_divergence_lr1": lambda r: _lost_at_start(r) and r.worst is not None and r.worst.outcome == "diverged",
    "08_early_blowup_megatron": lambda r: any(i.onset_step <= 4 for i in _incidents(r)),
    "12_reset_reinit": _reinitialized,
    "13_fell_below_inf": _no_false_fall,
    "14_not_a_time_series": lambda r: r.run is None and "table of" in r.refused and "runs" in r.refused,
    "16_cap_hides_incidents": _every_incident_reached,
    "17_eval_only_divergence": _eval_only,
    "22_ema_nonsense_summary": lambda r: 4.0 < _loss_before(r) < 5.2,
    "24_llama_factory_log": lambda r: _rows(r) == 202 and r.run is not None and "loss" in r.run.columns,
    "31_tensorboard_csv_download": lambda r: _rows(r) == 200 and {120, 180} <= {i.onset_step for i in _incidents(r)},
    "33_epoch_step_csv": lambda r: (
        _rows(r) == 500 and len(_incidents(r)) == 1 and r.run is not None and len(r.run.segments) == 1
    ),
}
"""case → whether what its `must` asks for holds."""


def logs() -> list[dict[str, Any]]:
    """The entries of cases.json; none where it is absent."""
    file = LOGS / "cases.json"
    return json.loads(file.read_text()) if file.is_file() else []


def log_of(case: str) -> Path:
    """The file of a case: its folder has one."""
    return next(path for path in sorted((LOGS / "cases" / case).iterdir()))


def clean_logs() -> list[Path]:
    """The public logs that their labels call clean and that can be read today."""
    file = LOGS / "labels.json"
    labels = json.loads(file.read_text()) if file.is_file() else []
    return [LOGS / e["file"] for e in labels if e["label"] == "clean" and e["file"].endswith(READABLE)]


def clean_samples() -> list[Path]:
    """The sample runs without a fault."""
    return [sample(name) for name in NAMES if "clean" in name]


def passes_itself(result: Read) -> list[int]:
    """The incidents whose section 6 the run that has them passes: there should be none."""
    if result.run is None:
        return []
    return [
        i.id
        for i in _incidents(result)
        if i.verification is not None
        and all(shown.passed for shown in verify(i.verification, i.onset_step, result.run))
    ]
