"""A detector, an observation, a cause: each is one more file, and changes nothing that it is not about."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from postmortem.causes import causes
from postmortem.detectors import detectors, find_incidents, kinds, live
from postmortem.diagnosis import Diagnosis
from postmortem.panels import panels
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.detectors.helpers import telemetry
from tests.makers import healthy, write_run
from tests.samples import NAMES, sample

Add = Callable[[str, str, str], None]

DETECTOR = '''"""A temperature above 90 °C."""
import numpy as np

from postmortem.detectors import RECOVERED, Alarm, Detector, Finding, Stream
from postmortem.incident import Kind

KIND = Kind("overheating", "too hot", "cause", "column")


def _detect(t):
    degrees = t.series("gpu_degrees")
    hot = np.zeros(0, int) if degrees is None else np.flatnonzero(degrees.value > 90)
    if hot.size:
        step, value = int(degrees.step[hot[0]]), float(degrees.value[hot[0]])
        yield Finding(
            detector="overheating",
            kind=NAMED,
            column=degrees.name,
            onset_step=step,
            onset_interval=None,
            peak_step=step,
            recovery_step=step + 1,
            peak=value,
            baseline=60.0,
            scale=1.0,
            score=value - 60,
            settled=60.0,
            outcome=RECOVERED,
        )


class _Stream(Stream):
    def add_row(self, step, row):
        hot = (row.get("gpu_degrees") or 0.0) > 90
        return [Alarm("overheating", KIND.slug, "gpu_degrees", step, step, state="settled")] if hot else []

    def end(self, step):
        return []

    def rewind_to(self, step):
        pass


NAMED = KIND.slug
DETECTOR = Detector("overheating", (KIND,), _detect, _Stream)
'''

PANEL = '''"""Panel 14, the temperature of the accelerator."""
from postmortem.case import Observation
from postmortem.panels import Panel


def _measure(case):
    hot = case.departure("gpu_degrees", sign=1)
    return [] if hot is None or not hot.moved else [Observation("heat.high", "hot", "gpu_degrees", hot.step)]


PANEL = Panel(
    14,
    "heat",
    "Temperature",
    ("gpu_degrees",),
    _measure,
    "whether it was hot: log gpu_degrees",
    observes=("heat.high",),
)
'''

CAUSE = '''"""It was too hot. A temperature that stays as it was rules it out.

**Smallest fix.** Cool it.
"""
from postmortem.change import Change
from postmortem.diagnosis import Prediction, Remedy
from postmortem.causes import Cause

CAUSE = Cause(
    slug="overheating",
    title="Overheating",
    prior=-1.0,
    weights={"heat.high": 4.5},
    root_cause_sentence=lambda case, observed: "It was too hot.",
    remedies=lambda case, observed: (Remedy("Cool it.", "noise"),),
    proof_text="Replay on a cool machine.",
    lesson="Heat flips bits",
    predicts=lambda suspect: (Prediction((Change("skip", (suspect.window,)),), "cures"),),
    doc=__doc__,
)
'''


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Add a file to a folder where a room of the package is discovered, too."""
    discovered = (detectors, kinds, panels, causes)
    made: list[str] = []

    def added(room: str, name: str, text: str) -> None:
        package = importlib.import_module(f"postmortem.{room}")
        folder = tmp_path / "outside" / room
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        made.append(f"postmortem.{room}.{name}")
        for cached in discovered:
            cached.cache_clear()

    yield added
    for cached in discovered:
        cached.cache_clear()
    for name in made:
        sys.modules.pop(name, None)


def hot(folder: Path) -> Path:
    """A run whose accelerator is hot in the row of a spike."""
    columns = healthy()
    rows = columns["loss"].size
    degrees = 60 + np.random.default_rng(1).normal(0, 0.5, rows)
    degrees[300] = 97.0
    columns["loss"][300] += 2
    columns["grad_norm"][300] *= 6
    return write_run(folder, columns | {"gpu_degrees": degrees})


class TestDetector:
    def test_finds_incidents_of_its_own_kind(self, add: Add) -> None:
        add("detectors", "overheating", DETECTOR)
        degrees = np.full(200, 60.0)
        degrees[150] = 97.0
        (incident,) = find_incidents(telemetry(gpu_degrees=degrees))
        assert (incident.kind, incident.title, incident.onset_step) == ("overheating", "too hot", 150)
        assert kinds()["overheating"].role == "cause" and incident.findings[0].role == "cause"

    def test_is_asked_row_by_row_among_the_others(self, add: Add) -> None:
        add("detectors", "overheating", DETECTOR)
        watching = live()
        rows = [{"loss": 2.0, "gpu_degrees": degrees} for degrees in (60.0, 97.0, 60.0)]
        alarms = [alarm for step, row in enumerate(rows) for alarm in watching.add_row(step, row)]
        assert [(alarm.kind, alarm.onset_step) for alarm in alarms] == [("overheating", 1)]

    def test_that_finds_what_it_does_not_declare_is_a_mistake_of_that_file(self, add: Add) -> None:
        add("detectors", "overheating", DETECTOR.replace("NAMED = KIND.slug", 'NAMED = "fire"'))
        degrees = np.full(200, 60.0)
        degrees[150] = 97.0
        with pytest.raises(TypeError, match="detector overheating: found 'fire', a kind that it does not declare"):
            find_incidents(telemetry(gpu_degrees=degrees))

    def test_that_declares_a_kind_differently_from_another_is_a_mistake(self, add: Add) -> None:
        add("detectors", "overheating", DETECTOR.replace('"overheating", "too hot"', '"loss_spike", "heat"'))
        with pytest.raises(TypeError, match="declares loss_spike differently from another detector"):
            kinds()


def contributing_detectors() -> list[str]:
    """The detectors that CONTRIBUTING shows, as the text of their files."""
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    section = page.partition("### A detector")[2].partition("\n### ")[0]
    return [block.partition("```")[0] for block in section.split("```python\n")[1:]]


class TestTheDetectorsThatContributingShows:
    def test_a_spike_of_one_more_column(self, add: Add) -> None:
        add("detectors", "attention_logit_spike", contributing_detectors()[0])
        (detector,) = (d for d in detectors() if d.name == "attention_logit_spike")
        values = 5 * np.exp(0.02 * np.random.default_rng(0).standard_normal(400))
        assert find_incidents(telemetry(max_attention_logit=values)) == ()
        supporting, opening = values.copy(), values.copy()
        supporting[300] *= 2.2
        opening[300] *= 4
        spiked = telemetry(max_attention_logit=supporting)
        assert [f.opens for f in detector.findings(spiked)] == [False] and find_incidents(spiked) == ()
        (incident,) = find_incidents(telemetry(max_attention_logit=opening))
        assert (incident.kind, incident.onset_step, incident.outcome) == ("attention_logit_spike", 300, "recovered")
        watching = live(["attention_logit_spike"])
        alarms = [
            a for step, v in enumerate(opening) for a in watching.add_row(step, {"max_attention_logit": float(v)})
        ]
        assert {(a.kind, a.onset_step) for a in [*alarms, *watching.end()]} == {("attention_logit_spike", 300)}

    def test_a_rule_of_its_own(self, add: Add) -> None:
        add("detectors", "gpu_heat", contributing_detectors()[1])
        degrees = np.full(200, 60.0)
        assert find_incidents(telemetry(gpu_degrees=degrees)) == ()
        degrees[150:153] = (93.0, 97.0, 92.0)
        (incident,) = find_incidents(telemetry(gpu_degrees=degrees))
        assert (incident.title, incident.onset_step, incident.peak_step) == ("hot GPU", 150, 151)
        assert (incident.recovery_step, incident.outcome) == (153, "recovered")
        (incident,) = find_incidents(telemetry(gpu_degrees=degrees[:152]))
        assert (incident.recovery_step, incident.outcome) == (None, "unresolved")


class TestObservationAndCause:
    def test_lead_to_the_new_cause(self, add: Add, tmp_path: Path) -> None:
        add("panels", "heat", PANEL)
        add("causes", "overheating", CAUSE)
        (incident,) = diagnose(open_run(hot(tmp_path / "run"))).incidents
        assert incident.hypotheses[0].cause == "overheating" and incident.verdict == "supported"
        assert incident.root_cause == "It was too hot."

    def test_an_observation_that_is_not_declared_is_a_mistake_of_that_file(self, add: Add, tmp_path: Path) -> None:
        add("panels", "heat", PANEL.replace('observes=("heat.high",)', 'observes=("heat.low",)'))
        with pytest.raises(TypeError, match=r"panel heat: observed heat\.high, which it does not declare"):
            diagnose(open_run(hot(tmp_path / "run")))

    def test_an_observation_of_another_panel_is_a_mistake(self, add: Add) -> None:
        add("panels", "heat", PANEL.replace('observes=("heat.high",)', 'observes=("lr.jump",)'))
        with pytest.raises(TypeError, match=r"Panel observes 'lr\.jump' appears twice"):
            panels()


class TestCauseWithoutObservations:
    """`data.repeat` is observed in no sample run."""

    @pytest.mark.parametrize("name", NAMES)
    def test_changes_no_diagnosis(self, name: str, add: Add) -> None:
        run = open_run(sample(name))
        before = diagnose(run)
        add("causes", "overheating", CAUSE.replace("heat.high", "data.repeat"))
        assert "overheating" in {cause.slug for cause in causes()}
        assert diagnose(run).to_json() == before.to_json()

    def test_changes_no_experiment_and_so_no_proof(self, add: Add) -> None:
        run = open_run(sample("19-spike-001"))
        before = designed(diagnose(run))
        add("causes", "overheating", CAUSE.replace("heat.high", "data.repeat"))
        assert designed(diagnose(run)) == before


def designed(diagnosis: Diagnosis) -> object:
    from postmortem.proof.design import design_experiment

    return design_experiment(diagnosis.incidents[0], from_step=300)
