"""Pictures of any finite or non-finite value, at any step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from postmortem.diagnosis import PanelReading, Trace
from postmortem.diff import diff_runs
from postmortem.diff.figure import draw as draw_diff
from postmortem.panels import draw_panel
from postmortem.pipeline import OpenRuns
from postmortem.probe.heatmap import draw_probe
from postmortem.probe.measurement import ProbeResult, StateProbe
from postmortem.report import canvas, default_out, write_report
from postmortem.report.figures import draw_incident
from postmortem.sources import open_run
from tests.report.factory import spike

LARGE, TINY = 1e308, 5e-324
ODD = (LARGE, -LARGE, TINY, -TINY, math.inf, -math.inf, math.nan, 0.0, -0.0, 1.0, 1e30, 1e-300, 3.4e38)
VALUES = st.floats(width=64) | st.sampled_from(ODD)
COLUMNS = st.lists(VALUES, min_size=1, max_size=12)
FIRST_STEPS = st.sampled_from((0, 1, 300, 2**53 - 3, 2**62 - 7))
EXAMPLES = ([LARGE], [TINY], [math.inf], [LARGE, -LARGE], [3.0, LARGE, 3.0], [TINY, LARGE], [math.nan, math.inf])


def drawn(panel: PanelReading, values: list[float], first: int, out: Path) -> Image.Image:
    steps = tuple(range(first, first + len(values)))
    moved = replace(panel, traces=(Trace("loss", steps, tuple(values)),), moved=True, silent="")
    incident = replace(spike().incidents[0], onset_step=first, peak_step=first + 1, recovery_step=None, panels=(moved,))
    (out / "panels").mkdir()
    (drawn_panel,) = draw_incident(incident, out, draw_panel).panels
    with Image.open(out / drawn_panel.image) as image:
        image.load()
    return image


@pytest.mark.heavy
@settings(max_examples=25)
@given(COLUMNS, FIRST_STEPS, st.integers(0, 11))
def test_any_panel_draws_any_value(values: list[float], first: int, number: int) -> None:
    panels = [panel for panel in spike().incidents[0].panels if panel.traces]
    with TemporaryDirectory() as folder:
        assert drawn(panels[number % len(panels)], values, first, Path(folder)).width == 990


@pytest.mark.parametrize("values", EXAMPLES, ids=repr)
@pytest.mark.parametrize("log_scale", [False, True])
def test_the_edges_of_what_is_drawn(values: list[float], log_scale: bool, tmp_path: Path) -> None:
    panel = next(panel for panel in spike().incidents[0].panels if panel.slug == "loss")
    for first in (0, 2**62):
        out = tmp_path / str(first)
        out.mkdir()
        assert drawn(replace(panel, log_scale=log_scale), values, first, out).width == 990


def test_what_is_clipped_is_said() -> None:
    assert canvas.clipped_note([1.0, 1e30], [math.inf, math.nan]) == ""
    assert canvas.clipped_note([1.0], [-LARGE]) == "  · clipped at ±1e30"
    assert canvas.drawable([LARGE, -LARGE, 1.0, TINY]).tolist() == [1e30, -1e30, 1.0, 0.0]
    assert np.isnan(canvas.drawable([math.inf, math.nan])).all()


@pytest.mark.heavy
@settings(max_examples=25)
@given(st.lists(VALUES | st.none(), min_size=2, max_size=40), st.sampled_from((0, 10**12, 2**53 - 99)))
@example([LARGE, 1.0, None, TINY], 0)
@example([LARGE, TINY], 0)
def test_a_probe_draws_any_value(values: list[float | None], first: int) -> None:
    half, window = tuple(values), (first, first + len(values))
    states = tuple(StateProbe(step, half, half[::-1], None, None, (first,), False) for step in (0, 2**62))
    assert draw_probe(ProbeResult("run", window, (0, 1), states, "undecided", ""))[:4] == b"\x89PNG"


def log(path: Path, at: dict[int, float], first: int) -> Path:
    rows = [f"{first + i},{at.get(i, 3 + 0.01 * math.sin(i * i))!r},{1 + 0.01 * math.cos(i * i)!r}" for i in range(600)]
    path.mkdir()
    (path / "metrics.csv").write_text("\n".join(("step,loss,grad_norm", *rows)) + "\n")
    return path


SPIKES = (
    {400: LARGE},
    {400: LARGE, 402: -LARGE},
    {400: -LARGE},
    {400: LARGE, 401: TINY, 402: math.nan, 403: math.inf},
    dict.fromkeys(range(600), LARGE),
    dict.fromkeys(range(600), TINY),
    {i: LARGE if i % 2 else -LARGE for i in range(600)},
)


@pytest.mark.heavy
@pytest.mark.parametrize("first", [0, 2**53])
@pytest.mark.parametrize("at", SPIKES, ids=range(len(SPIKES)))
def test_huge_values_get_a_report_and_a_diff(at: dict[int, float], first: int, tmp_path: Path) -> None:
    spiked, plain = log(tmp_path / "a", at, first), log(tmp_path / "b", {}, first)
    diagnosis = OpenRuns().examined(spiked).diagnosis()
    written = write_report(diagnosis, default_out(spiked), draw=draw_panel)
    assert written is not None
    assert draw_diff([diff_runs(open_run(spiked), open_run(plain))])[:4] == b"\x89PNG"
