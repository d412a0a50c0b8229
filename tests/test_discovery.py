"""Parts are discovered in the package's own folder and among entry points; a broken one is named."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from postmortem import discovery
from postmortem.discovery import discover
from postmortem.errors import BrokenPlugin

GROUP = "postmortem.things"

PLUGIN = '''
"""The pressure of the made-up boiler rose.

It is ruled out where the pressure stands still.

**Smallest fix.** Open the valve.
"""
import numpy as np
from postmortem.case import Observation
from postmortem.detectors import Detector, Finding, RECOVERED
from postmortem.diagnosis import Remedy
from postmortem.incident import Kind
from postmortem.causes import Cause
from postmortem.panels import Panel
from postmortem.run.rows import Collector
from postmortem.run.table import table_of
from postmortem.sources import Confidence, FormatMatch, row_source

def sniff(candidate):
    return FormatMatch(Confidence.CERTAIN, "it begins with BOILER") if candidate.head.startswith(b"BOILER") else None

def read(path, labels):
    rows = Collector(labels)
    for line in path.read_text().splitlines()[1:]:
        tick, heat, bar = map(float, line.split())
        rows.add({"tick": tick, "heat": heat, "bar": bar})
    rows.flush()
    return table_of(rows.chunks, path.name)

SOURCE = row_source("boiler", "a BOILER log", sniff, read, columns={"tick": "step", "heat": "loss", "bar": "log_z"})

def detect(t):
    bar = t.series("log_z")
    if bar is None:
        return
    for step, value in zip(bar.step.tolist(), bar.value.tolist()):
        if value > 9:
            yield Finding(detector="pressure", kind="pressure_rise", column="log_z", onset_step=step,
                          onset_interval=None, peak_step=step, recovery_step=step + 1, peak=value, baseline=1.0,
                          scale=0.1, score=90.0, settled=1.0, outcome=RECOVERED)

DETECTOR = Detector("pressure", (Kind("pressure_rise", "pressure rise"),), detect)

def measure(case):
    return [Observation("pressure.high", "the pressure rose", "log_z", case.onset)]

PANEL = Panel(100, "pressure", "Pressure", ("log_z",), measure, "whether the pressure rose: log bar",
              observes=("pressure.high",))

CAUSE = Cause(
    slug="boiler",
    title="Boiler",
    prior=-3.0,
    weights={"pressure.high": 6.0},
    root_cause_sentence=lambda case, observed: "The boiler was too hot.",
    remedies=lambda case, observed: (Remedy("Open the valve."),),
    proof_text="Open the valve and drive again.",
    lesson="A closed valve heats the boiler",
    doc=__doc__,
)
'''
POINTS = """
[postmortem.sources]
boiler = boiler_plugin:SOURCE
[postmortem.detectors]
boiler = boiler_plugin:DETECTOR
[postmortem.panels]
boiler = boiler_plugin:PANEL
[postmortem.causes]
boiler = boiler_plugin:CAUSE
"""


def _install(site: Path, name: str, points: str, **modules: str) -> None:
    """A distribution of that name in a folder on the path, as an installer would write it."""
    info = site / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(points)
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, and a fresh look at it."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    discovery._installed.cache_clear()
    yield folder
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
    discovery._installed.cache_clear()


@pytest.fixture
def rooms(site: Path) -> types.ModuleType:
    """A package with one good part, the number 3, and a helper that must not be imported."""
    package = site / "rooms"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_helper.py").write_text("raise RuntimeError")
    (package / "good.py").write_text("THING = 3\n")
    return importlib.import_module("rooms")


def test_the_file_that_is_broken_is_named(rooms: types.ModuleType, site: Path) -> None:
    assert discover(rooms, "THING", int) == (3,)
    (site / "rooms" / "bad.py").write_text("OTHER = 3\n")
    importlib.invalidate_caches()
    with pytest.raises(TypeError, match=r"bad\.py: expected THING"):
        discover(rooms, "THING", int)


def test_entry_points_follow_by_distribution_and_name(rooms: types.ModuleType, site: Path) -> None:
    _install(site, "zoo", f"[{GROUP}]\nb = zoo:ONE\na = zoo:TWO\n[others]\nc = zoo:NONE\n", zoo="ONE, TWO = 1, 2\n")
    _install(site, "ark", f"[{GROUP}]\nx = ark:NINE\n", ark="NINE = 9\n")
    assert discover(rooms, "THING", int, group=GROUP) == (3, 9, 2, 1)
    assert discover(rooms, "THING", int) == (3,)


@pytest.mark.parametrize(
    ("value", "text", "why"),
    [
        ("zoo:ONE", "ONE = 'text'", r"is a str where a int is expected, in \S+zoo\.py"),
        ("zoo:TWO", "ONE = 1", r"cannot be loaded \(AttributeError: .*TWO.*\), in \S+zoo\.py"),
        ("zoo:ONE", "import not_there", r"cannot be loaded \(ModuleNotFoundError: .*not_there.*\), in \S+zoo\.py"),
        ("zoo:ONE", "ONE = = 1", r"cannot be loaded \(SyntaxError: .*\), in \S+zoo\.py"),
        ("zoo:ONE", "raise RuntimeError('a\\nb\\x1b[31m')", r"cannot be loaded \(RuntimeError: a b\ufffd\[31m\)"),
        ("gone.part:ONE", "", r"cannot be loaded \(ModuleNotFoundError: .*gone.*\), in gone\.part"),
    ],
)
def test_a_broken_entry_point_names_its_distribution(
    rooms: types.ModuleType, site: Path, value: str, text: str, why: str
) -> None:
    _install(site, "zoo-tools", f"[{GROUP}]\nlion = {value}\n", zoo=text)
    beginning = rf"^plug-in zoo-tools 1\.2: entry point lion = '{value}' of group postmortem\.things "
    with pytest.raises(BrokenPlugin, match=f"{beginning}{why}") as caught:
        discover(rooms, "THING", int, group=GROUP)
    assert str(caught.value).endswith("Update it, or remove it: pip uninstall zoo-tools")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_two_parts_of_one_name_are_refused(rooms: types.ModuleType, site: Path) -> None:
    _install(site, "zoo", f"[{GROUP}]\nlion = zoo:THREE\n", zoo="THREE = 3\n")
    assert discover(rooms, "THING", int, group=GROUP) == (3, 3)
    message = r"int real '3' appears twice: in .*good\.py and in .*zoo\.py \(zoo 1\.2\)\. .*pip uninstall zoo$"
    with pytest.raises(BrokenPlugin, match=message):
        discover(rooms, "THING", int, group=GROUP, unique=("real",))


def _run(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(Path(__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "postmortem", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_another_distribution_adds_a_source_a_detector_a_panel_and_a_cause(tmp_path: Path) -> None:
    log = tmp_path / "boiler.out"
    log.write_text("BOILER\n" + "".join(f"{t} {2 - t / 1000} {9.5 if t == 60 else 1}\n" for t in range(120)))
    assert "no known kind of run" in _run(tmp_path, "draft", str(log), "--json").stderr
    _install(tmp_path / "site", "boiler", POINTS, boiler_plugin=PLUGIN)
    done = _run(tmp_path / "site", "draft", str(log), "--json")
    assert done.returncode == 0, done.stderr
    diagnosis = json.loads(done.stdout)
    assert diagnosis["run"]["source"] == "boiler"
    (incident,) = diagnosis["incidents"]
    assert (incident["kind"], incident["onset_step"]) == ("pressure_rise", 60)
    assert [p["summary"] for p in incident["panels"] if p["slug"] == "pressure"] == ["the pressure rose"]
    assert incident["hypotheses"][0]["cause"] == "boiler"
    assert [e["weights"] for e in incident["evidence"] if e["observation"] == "pressure.high"] == [{"boiler": 6.0}]
    out = tmp_path / "report"
    written = _run(tmp_path / "site", "draft", str(log), "--out", str(out), "--lessons", str(tmp_path / "lessons.md"))
    assert written.returncode == 0 and "The boiler was too hot." in (out / "report.md").read_text()
    assert "Open the valve" in _run(tmp_path / "site", "explain", "boiler").stdout


def test_a_broken_plug_in_stops_a_draft_with_one_line(tmp_path: Path) -> None:
    log = tmp_path / "x.csv"
    log.write_text("step,loss\n0,1\n1,2\n")
    _install(tmp_path / "site", "boiler", POINTS, boiler_plugin="raise ImportError('needs steam')")
    done = _run(tmp_path / "site", "draft", str(log), "--json")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("postmortem: plug-in boiler 1.2: ") and done.stderr.count("\n") == 1
    assert "pip uninstall boiler" in done.stderr
    assert _run(tmp_path / "site", "draft", "--help").returncode == 0


def test_a_machine_without_such_distributions_is_not_searched_for_their_names(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(site, "other", "[console_scripts]\nother = other:main\n")
    monkeypatch.setattr(sys, "path", [str(site)])
    assert discovery._installed() is None
    (site / "parts.zip").write_bytes(b"PK")
    monkeypatch.setattr(sys, "path", [str(site), str(site / "parts.zip")])
    discovery._installed.cache_clear()
    assert discovery._installed() is not None, "an archive is not looked into"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("for step, value in zip", "for step, value in zap", "NameError: name 'zap' is not defined"),
        ('"pressure_rise", "pressure rise"', '"loss_spike", "mine", "minor"', "declares loss_spike differently"),
        ('"pressure_rise", "pressure rise"', '"steam", "steam"', "found 'pressure_rise', a kind that it does not"),
        (
            'observes=("pressure.high",)',
            'observes=("steam.high",)',
            "observed pressure.high, which it does not declare",
        ),
        ("import numpy as np", "raise SystemExit(1)", "cannot be loaded (SystemExit: 1)"),
    ],
)
def test_a_plug_in_that_fails_in_use_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    log = tmp_path / "boiler.out"
    log.write_text("BOILER\n" + "".join(f"{t} {2 - t / 1000} {9.5 if t == 60 else 1}\n" for t in range(120)))
    assert before in PLUGIN
    _install(tmp_path / "site", "boiler", POINTS, boiler_plugin=PLUGIN.replace(before, after))
    done = _run(tmp_path / "site", "draft", str(log), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith("postmortem: plug-in boiler") and message in done.stderr and done.stderr.count("\n") == 1
    )
