"""What holds for every panel that discovery finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postmortem.case import Case
from postmortem.causes import causes
from postmortem.panels import Panel, draw_panel, panels
from postmortem.pipeline import detect, diagnose
from postmortem.sources import open_run
from tests.makers import healthy, worked_example, write_run
from tests.test_pipeline import CASES, make

THIRTEEN = {
    "loss",
    "lr",
    "grad_norm",
    "activations",
    "weights",
    "dead_units",
    "token_loss",
    "optimizer_state",
    "numerics",
    "logits",
    "data",
    "state_identity",
    "throughput",
}


def test_the_thirteen_panels_are_numbered_as_the_template_has_them() -> None:
    assert {p.slug for p in panels()} == THIRTEEN
    assert [p.number for p in panels()] == list(range(1, 14))
    assert [p.slug for p in panels()][:8] == [
        "loss",
        "lr",
        "grad_norm",
        "activations",
        "weights",
        "dead_units",
        "token_loss",
        "optimizer_state",
    ]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    run = open_run(worked_example(tmp_path_factory.mktemp("runs") / "19-spike-001"))
    found = detect(run)
    return Case(run, found[0], found)


@pytest.mark.parametrize("panel", panels(), ids=lambda p: p.slug)
def test_a_panel_measures_or_says_why_not_and_what_it_would_have_told(panel: Panel, case: Case) -> None:
    reading, seen = panel.read(case)
    assert (reading.number, reading.slug) == (panel.number, panel.slug)
    if reading.silent:
        assert not seen
        assert reading.would_tell
    else:
        assert seen
        assert reading.summary


@pytest.mark.parametrize("panel", panels(), ids=lambda p: p.slug)
def test_a_panel_is_silent_where_its_columns_are_missing(panel: Panel, tmp_path: Path) -> None:
    loss = healthy()["loss"]
    loss[300] += 2
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss\n" + "".join(f"{i},{v}\n" for i, v in enumerate(loss)))
    run = open_run(file)
    found = detect(run)
    reading, seen = panel.read(Case(run, found[0], found))
    assert bool(seen) == (panel.slug == "loss")
    if not seen:
        assert "not logged" in reading.silent


@pytest.mark.parametrize("panel", panels(), ids=lambda p: p.slug)
def test_what_is_drawn_lies_in_the_reading(panel: Panel, case: Case) -> None:
    from matplotlib.figure import Figure

    reading, _ = panel.read(case)
    ax = Figure().subplots()
    draw_panel(ax, reading)
    assert bool(ax.lines or ax.collections) == bool(reading.traces)
    for trace in reading.traces:
        assert case.run.series(trace.name) is not None
        assert trace.origin


def test_every_observation_that_a_case_makes_is_weighed_by_some_cause(tmp_path: Path) -> None:
    """An observation that no cause weighs is either context for people or a misspelt slug: the list is kept by hand."""
    context = {
        "lr.near_peak",
        "token_loss.unclear",
        "grad_norm.unclear",
        "grad_norm.clipped",
        "grad_norm.leads",
        "grad_norm.order",
        "token_loss.many_ids",
        "token_loss.lower",
        "logits.moved",
        "logits.flat",
        "dead_units.flat",
        "data.ngrams",
        "data.ngrams_normal",
        "throughput.flat",
        "throughput.slow",
        "state.config_change",
        "state.frozen",
        "update.small",
        "moments.stale",
        "activations.flat",
        "activations.moved",
        "data.labels_valid",
        "update.flat",
        "weights.smooth",
        "grad_norm.flat",
        "loss.below_uniform",
        "numerics.finite",
        "token_loss.nonfinite",
        "data.rare_tokens_unclear",
    }
    weighed = {slug for cause in causes() for slug in cause.weights}
    made: set[str] = set()
    for cause in CASES:
        for incident in diagnose(open_run(make(cause, tmp_path / cause))).incidents:
            made |= {e.observation for e in incident.evidence}
    assert made - weighed - context == set()


@pytest.mark.parametrize("panel", panels(), ids=lambda p: p.slug)
def test_a_panel_declares_what_it_may_observe(panel: Panel) -> None:
    assert panel.observes and len(set(panel.observes)) == len(panel.observes)
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", slug) for slug in panel.observes)


def test_every_weighed_slug_can_be_observed() -> None:
    """A weight on a slug that no panel declares would be dead."""
    declared = {slug for panel in panels() for slug in panel.observes}
    for cause in causes():
        assert cause.weights.keys() <= declared, cause.slug


def test_a_healthy_run_is_quiet_on_every_panel(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", healthy()))
    for panel in panels():
        reading = panel.quiet(run)
        assert bool(reading.silent) != bool(reading.summary)
