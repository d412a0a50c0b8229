"""`import postmortem as pm`: what it offers, from runs and from paths, and what a notebook shows of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import postmortem as pm
from postmortem import api, diagnosis, diff, errors, notebook_page, pipeline, record, run, sources
from postmortem.panels import draw_panel
from postmortem.report import DIAGNOSIS, render, write_report
from tests.makers import healthy, worked_example, write_run
from tests.report.factory import several, spike
from tests.samples import sample


def test_names_are_those_of_the_rooms() -> None:
    assert (pm.open_run, pm.diagnose, pm.compare) == (sources.open_run, api.diagnose, api.compare)
    assert (pm.Recorder, pm.Run, pm.Diagnosis) == (record.Recorder, run.Run, diagnosis.Diagnosis)
    assert (pm.RunsDiff, pm.PostmortemError) == (diff.RunsDiff, errors.PostmortemError)
    assert set(pm.__all__) <= set(dir(pm))
    assert all(getattr(pm, name) for name in pm.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'draft'"):
        _ = pm.draft


def test_a_path_does_as_well_as_a_run(tmp_path: Path) -> None:
    path = worked_example(tmp_path / "spike")
    clean = write_run(tmp_path / "clean", healthy())
    opened, sibling = pm.open_run(path), pm.open_run(clean)
    expected = pipeline.diagnose(opened, text=False, mode="watchdog", baseline=sibling)
    for one, other in ((path, clean), (str(path), str(clean)), (opened, sibling)):
        assert pm.diagnose(one, baseline=other, mode="watchdog", text=False) == expected
    assert pm.diagnose(path) == pipeline.diagnose(opened) != expected
    assert pm.compare(clean, str(path)) == pm.compare(sibling, opened) == diff.diff_runs(sibling, opened)
    with pytest.raises(errors.UnreadableInput):
        pm.diagnose(tmp_path / "none")


@pytest.mark.parametrize("maker", [worked_example, lambda path: write_run(path, healthy())], ids=["incident", "quiet"])
def test_a_notebook_shows_the_report_without_broken_pictures(maker: object, tmp_path: Path) -> None:
    assert callable(maker)
    found = pm.diagnose(maker(tmp_path / "run"))
    shown = found._repr_markdown_()
    assert shown == render(found) and shown.startswith("# ")
    report = write_report(found, tmp_path / "out", draw=draw_panel)
    assert "![" in report.read_text() and "![" not in shown
    assert diagnosis.load(report.parent / DIAGNOSIS)._repr_markdown_() == shown


def test_a_notebook_shows_the_page_of_a_diff() -> None:
    apart = pm.compare(sample("19-clean-001"), sample("19-spike-001"))
    shown = apart._repr_markdown_()
    assert shown is not None and shown.startswith("# Diff of `19-clean-001` and `19-spike-001`\n")
    assert apart.reason[:20] in shown and "![" not in shown


def test_a_record_without_a_page_is_shown_by_its_repr() -> None:
    assert notebook_page.markdown(object()) is None


EVIL = "a\x1b[31m\n" + "long" * 500


def test_reprs_are_one_short_line(tmp_path: Path) -> None:
    opened = pm.open_run(write_run(tmp_path / "run", {"loss": [1.0, 2.0], EVIL: [1.0, 2.0]}, manifest={"id": EVIL}))
    other = pm.open_run(write_run(tmp_path / "other", {"loss": [1.0, 3.0]}, manifest={"id": EVIL}))
    found = replace(several(), run_id=EVIL)
    worst = replace(found.incidents[0], kind=EVIL, onset_interval=(300, 350))
    trace = diagnosis.Trace(EVIL, tuple(range(9)), (0.0,) * 9)
    shown = [opened, opened.series(EVIL), found, replace(found, incidents=(worst,)), worst, trace]
    for one in (*shown, pm.compare(opened, other)):
        assert len(repr(one)) < 200 and repr(one).isprintable() and repr(one)[0] + repr(one)[-1] == "<>"
    assert repr(pm.open_run(tmp_path / "run")) == repr(opened)


def test_reprs_say_what_matters() -> None:
    assert repr(spike()) == "<Diagnosis of 19-spike-001: supported; 1 incident, loss spike at step 312>"
    worst, second = several().incidents[:2]
    assert repr(several()).endswith(f"{len(several().incidents)} incidents, the worst: {worst.headline}>")
    assert repr(second).startswith(f"<Incident {second.id}: {second.headline}, {second.outcome}; ")
    apart = replace(worst, onset_interval=(300, 350))
    assert apart.headline.endswith(" at steps 301–350")
    labels = pm.open_run(sample("19-spike-001")).labels("source")
    assert repr(labels) == "<LabelSeries source: 2,000 rows, steps 0–1999>"
    same = pm.compare(sample("19-spike-001"), sample("19-spike-001"))
    assert repr(same) == "<RunsDiff of 19-spike-001 and 19-spike-001: identical>"
