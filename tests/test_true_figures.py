"""Sentences hold the figures that they name, and §6 fails on the run that broke: each incident of every log at hand,
against the rows of that log."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from postmortem.diagnosis import Diagnosis, Evidence, Incident, Signal
from postmortem.errors import UnreadableInput
from postmortem.pipeline import diagnose
from postmortem.run import Run
from postmortem.sources import open_run
from postmortem.text import number, times
from tests.broken import passed_by_itself
from tests.makers import STEPS, healthy, noise, skip_on_nan, worked_example, write_run
from tests.samples import NAMES, ROOT, sample
from tests.test_pipeline import CASES, make

SHARED = ROOT.parent / "shared"
LABELS = SHARED / "real_logs" / "labels.json"
LOGS = [
    *(SHARED / "real_logs" / label["file"] for label in (json.loads(LABELS.read_text()) if LABELS.is_file() else ())),
    *sorted((SHARED / "real_logs" / "cases").glob("*/*")),
    *(
        folder if (folder / "run.json").is_file() else next(folder.iterdir())
        for folder in sorted((SHARED / "public_reports").glob("**/input"))
    ),
]
SEVERAL, LONG = 3.0, 50  # a factor that is no stillness, and rows of zeros that are nothing open
FIGURE = re.compile(r"(?<![\w.\-/])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w/])")


def violations(d: Diagnosis, run: Run) -> Iterator[str]:
    """What a reader could hold against the report `d` of `run`."""
    for i in d.incidents:
        for text in (*_of_the_summary(i), *_of_the_peak(i, run), *_of_sentences(i), *_of_the_watch(i, run)):
            yield f"incident {i.id} ({i.kind}, step {i.onset_step}): {text}"
        for e in i.evidence:
            for text in _of_evidence(i, e):
                yield f"incident {i.id}, {e.observation}: {text}: {e.text}"


def main_signal(i: Incident) -> Signal:
    """The signal that gave the incident its kind and end; of several, the one on the loss."""
    return min(i.signals, key=lambda s: (s.kind != i.kind, s.recovery_step != i.recovery_step, s.column != "loss"))


def figure(i: Incident, key: str) -> float | None:
    value = next(s.value for s in i.symptoms if s.key == key)
    return float(value) if isinstance(value, (int, float)) else None


def _of_the_summary(i: Incident) -> Iterator[str]:
    before, peak, main = figure(i, "pre_spike_loss"), figure(i, "peak_loss"), main_signal(i)
    told = re.search(r"loss (\S+) → (\S+?)(?: \((\S+)×\))?[,;]", f"{i.summary};")
    if told and before is not None and peak is not None:
        if (told[1], told[2]) != (number(before), number(peak)):
            yield f"the summary tells {told[1]} → {told[2]}, the symptoms {number(before)} → {number(peak)}"
        if told[3] and times(peak / before) != f"{told[3]}×":
            yield f"a factor of {told[3]} from {before} to {peak}"
        if told[3] and (before <= 0 or peak < 0):
            yield "a factor of a loss that is not positive"
    if main.column not in ("loss", "batch_hash") and main.column not in i.summary:
        yield f"the summary does not name {main.column}: {i.summary}"
    if before is not None and not math.isfinite(before):
        yield "the level before is not finite"


def _of_the_peak(i: Incident, run: Run) -> Iterator[str]:
    main, loss = main_signal(i), run.series("loss", attempt=i.attempt if i.discarded else None)
    at = next(s for s in i.symptoms if s.key == "peak_loss")
    if main.column != "loss":
        yield from _of_another_peak(i, run, main)
    if loss is None or main.column != "loss":
        return
    if at.step != i.peak_step:
        yield f"the peak is at step {at.step} in section 1, and at step {i.peak_step} in the table"
    if isinstance(at.value, float) and not i.suspected:
        logged = loss.at(at.step or 0)
        if logged is None or not (logged == at.value or (math.isnan(logged) and math.isnan(at.value))):
            yield f"the peak of {at.value} is {logged} in the log"
        spike = next((e for e in i.evidence if e.observation == "loss.spike"), None)
        if spike is not None and spike.figures["value"] != at.value:
            yield f"the peak is {at.value} in section 1, and panel 1 says: {spike.text}"
        if spike is not None and f"baseline {number(figure(i, 'pre_spike_loss'))}" not in spike.text:
            yield f"the level before is {figure(i, 'pre_spike_loss')} in section 1, and panel 1 says: {spike.text}"
        onset = min(s.onset_step for s in i.signals if s.column == "loss")
        end = i.recovery_step or (int(loss.step[-1]) + 1 if i.outcome in ("diverged", "unresolved") else i.peak_step)
        rows = loss.window(onset, end).value
        if math.isfinite(at.value) and main.peak > main.baseline and rows.size and at.value < np.nanmax(rows):
            yield f"the peak of {at.value} is below {np.nanmax(rows)} in the incident"
    before, level = figure(i, "pre_spike_loss"), loss.window(0, i.onset_step).value[-LONG:]
    level = level[np.isfinite(level)]
    if before is not None and level.size and not level.min() <= before <= level.max():
        yield f"the level before is {before}, and the last {LONG} rows before lie in {level.min()} to {level.max()}"


def _of_another_peak(i: Incident, run: Run, main: Signal) -> Iterator[str]:
    """The headline, section 1, the panel and section 6 name one row of the column that the incident is one of."""
    series = run.series(main.column, attempt=i.attempt if i.discarded else None)
    peak = None if series is None else series.at(i.peak_step)
    headline = re.search(rf"{re.escape(main.column)} (?:\S+ → )(\S+?)[,; ]", f"{i.summary};")
    if headline is None or peak is None or not math.isfinite(peak):
        return
    if headline[1] != number(peak):
        yield f"the peak is {peak} at step {i.peak_step}, and the summary says: {i.summary}"
    norm = next(s for s in i.symptoms if s.key == "grad_norm")
    if main.column == "grad_norm" and (norm.value, norm.step) != (peak, i.peak_step):
        yield f"the peak is {peak} at step {i.peak_step}, and section 1 says {norm.value} at step {norm.step}"
    same = ("spike", "drop", "raised")
    told = [e for e in i.evidence if e.observation in {f"{main.column}.{slug}" for slug in same}]
    for e in told:
        if e.figures["value"] != peak:
            yield f"the peak is {peak} at step {i.peak_step}, and its panel says: {e.text}"
    for check in i.verification.checks if i.verification else ():
        last_row = re.search(r"\((\S+) at step (\d+) in the broken run\)", check.text)
        if last_row and check.column == main.column and check.last_step == i.peak_step and last_row[1] != number(peak):
            yield f"the peak is {peak} at step {i.peak_step}, and section 6 says: {check.text}"


def _of_sentences(i: Incident) -> Iterator[str]:
    sentences = [i.summary, i.watch, i.root_cause, i.since, *(s.text or s.missing for s in i.symptoms)]
    sentences += [e.text for e in i.evidence]
    for sentence in filter(None, sentences):
        if re.search(r"\b(fell|falls?)\b[^;.]*\b(inf|NaN)\b", sentence):
            yield f"a fall to or from what is no number: {sentence}"
        if re.search(r"\((inf|nan|-\S+)×\)", sentence):
            yield f"a factor that is none: {sentence}"
        if "one row" in sentence and i.outcome in ("diverged", "lingering"):
            yield f"one row of an incident that is {i.outcome}: {sentence}"
    if i.recovery_step is not None and i.recovery_step <= i.peak_step:
        yield f"it recovers at step {i.recovery_step}, before its peak"
    offered = [change.text + change.side_effect for change in i.changes]
    if not i.checkpoint and not i.passed_over and any("scratch" in text for text in offered):
        yield "a restart from scratch, though no checkpoint was looked at"


def _of_the_watch(i: Incident, run: Run) -> Iterator[str]:
    main = main_signal(i)
    series = run.series(main.column)
    if not i.watch or series is None:
        return
    last = float(series.value[-1])
    bound = re.search(r"should (fall below|rise above) (\S+)", i.watch)
    if bound and not (last >= float(bound[2]) if bound[1] == "fall below" else last <= float(bound[2])):
        yield f"the last row is {last} already: {i.watch}"
    if (
        (series.value[-LONG:] == 0).all()
        and len(series) >= LONG
        and re.search("unresolved|too soon", i.watch + i.summary)
    ):
        yield f"rows of zeros are not open: {i.summary}; {i.watch}"


def _of_evidence(i: Incident, e: Evidence) -> Iterator[str]:
    ratio = e.figures.get("ratio")
    factors = [float(text) for text in re.findall(r"\((\S+?)×\)", e.text)]
    factors += [ratio] if isinstance(ratio, float) and math.isfinite(ratio) and ratio > 0 else []
    if "did not move" in e.text or e.observation.endswith(".flat"):
        if any(not 1 / SEVERAL < factor < SEVERAL for factor in factors):
            yield "stillness beside a factor"
        if not e.origin and e.observation != "state.frozen":
            yield "stillness of a column that is not logged"
    values = [v for v in (*e.figures.values(), e.step) if isinstance(v, (int, float)) and math.isfinite(v)]
    if {"value", "baseline"} <= e.figures.keys():
        steps = {i.onset_step, i.peak_step, e.step or 0}
        for text in FIGURE.findall(
            re.sub(r"steps? \d+|\d+ %|layer\w*|\S+/\S+|token_loss_p\d+|\([^()]*step \d+\)", "", e.text)
        ):
            told = float(text.replace(",", ""))
            if not any(math.isclose(told, v, rel_tol=2e-3, abs_tol=1e-12) for v in (*values, *steps)) and told not in (
                float(times(v).removesuffix("×")) for v in values if v > 0
            ):
                yield f"{text} is none of its figures {dict(e.figures)}"


def check(run: Run) -> None:
    diagnosis = diagnose(run)
    against = list(violations(diagnosis, run))
    assert not against, "\n".join(against)
    assert passed_by_itself(run, diagnosis) == []


@pytest.mark.parametrize("log", LOGS, ids=lambda path: "/".join(path.relative_to(SHARED).parts[1:-1]))
def test_of_public_logs(log: Path) -> None:
    try:
        run = open_run(log)
    except UnreadableInput:
        pytest.skip("not a log that can be opened")
    check(run)


@pytest.mark.parametrize("name", NAMES)
def test_of_sample_runs(name: str) -> None:
    check(open_run(sample(name)))


@pytest.mark.parametrize("cause", CASES)
def test_of_the_textbook_case_of_each_cause(cause: str, tmp_path: Path) -> None:
    check(open_run(make(cause, tmp_path / "run")))


def test_of_the_worked_example_and_a_trainer_that_skips(tmp_path: Path) -> None:
    check(open_run(worked_example(tmp_path / "a")))
    check(open_run(skip_on_nan(tmp_path / "b")))


def broken(seed: int) -> dict[str, np.ndarray]:
    """A seeded run that goes wrong in one of the ways that logs show: float64[n] of a few columns each."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(40, STEPS))
    columns = {name: values[:rows].copy() for name, values in healthy().items() if name in ("loss", "grad_norm", "lr")}
    loss, norm, at = columns["loss"], columns["grad_norm"], int(rng.integers(20, rows - 8))
    loss += noise(float(10 ** rng.uniform(-3, -0.7)), rows, seed)
    height, length = float(10 ** rng.uniform(-0.5, 3)), int(10 ** rng.uniform(0, 2.2))
    shapes = (
        lambda: np.exp(-np.arange(rows - at) / length),  # a spike that decays
        lambda: (np.arange(rows - at) < length) * 1.0,  # a stretch
        lambda: np.minimum(np.arange(rows - at) / length, 1.0),  # a rise that stays
        lambda: (np.arange(rows - at) >= 0) * (1 + 0.2 * np.sin(np.arange(rows - at))),  # a level with waves
    )
    loss[at:] += height * shapes[seed % 4]()
    norm *= np.exp(noise(float(rng.uniform(0.05, 1.2)), rows, seed + 1))
    norm[at : at + length] *= float(10 ** rng.uniform(-1.5, 2))
    match seed // 4 % 6:
        case 1:
            loss[0] = 10.0 ** rng.integers(4, 12)
        case 2:
            loss[min(at + length, rows - 3) :] = rng.choice([np.nan, np.inf, 0.0])
        case 3:
            columns["loss"] = np.round(loss - 2.3, 2)  # near zero and signed, with two decimals
        case 4:
            columns["eval_loss"] = loss * 1.1
        case 5:
            loss[at:] = healthy()["loss"][at:rows]
            norm[at:] = rng.choice([np.nan, np.inf, 50.0])
        case _:
            pass
    return columns


@pytest.mark.parametrize("seed", range(72))
def test_of_seeded_runs(seed: int, tmp_path: Path) -> None:
    check(open_run(write_run(tmp_path / "run", broken(seed))))
