"""Drafts one run of the bench and compares with what is true of it: its fault, its onset, its clean twin."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from postmortem.panels import panels
from postmortem.pipeline import diagnose
from postmortem.run import Run
from postmortem.run.columns import KEYS, is_clock
from postmortem.sources import open_run

from .training import CLEAN, folder, read_truth
from .visible import Floats, visible

NEAR = 5  # steps between the true onset and that of an incident which is taken to be it
SURE = 0.8  # a probability that people see as "strong"
ALL, FEW = "all", "few"
FEW_COLUMNS = frozenset({"loss", "grad_norm", "lr"})


@dataclass(frozen=True)
class Shown:
    """What a fault shows in one run, `fault` being "family/fault": the columns, JSON, empty where it shows nowhere."""

    fault: str
    seed: int
    code: str
    columns: str


@dataclass(frozen=True)
class Row:
    """One draft; `fault` is "family/fault/columns". All but `found` is about the worst incident."""

    fault: str
    seed: int
    code: str
    draft_cpu_s: float
    verdict: str
    incidents: int
    found: bool  # an incident begins where the fault does; for a fault without such a step: there is an incident
    abstained: bool
    top_cause: str | None  # this field and the ones below are None if no incident was found
    top_probability: float | None
    rank: int | None  # of the true cause, from 1
    onset_error: int | None  # steps, found − true
    probabilities: str  # JSON object, cause → probability

    @property
    def family(self) -> str:
        return self.fault.split("/")[0]

    @property
    def cause(self) -> str:
        return self.fault.split("/")[1]

    @property
    def columns(self) -> str:
        return self.fault.split("/")[2]

    @property
    def right(self) -> bool:
        """The true cause is first; on a clean run: there is no incident."""
        return self.incidents == 0 if self.cause == CLEAN else self.rank == 1

    @property
    def sure(self) -> bool:
        """A cause is named, with a high probability."""
        return not self.abstained and (self.top_probability or 0.0) >= SURE


def columns_of(columns: str) -> Callable[[str], bool]:
    """Whether a canonical column is in a selection: "all", "few", "few+PANEL" or "all-PANEL"."""
    base, sign, slug = columns.partition("+") if "+" in columns else columns.partition("-")
    names = next((panel.columns for panel in panels() if panel.slug == slug), ())

    def of_panel(column: str) -> bool:
        return any(column == name or (name.endswith("*") and column.startswith(name[:-1])) for name in names)

    if base == FEW:
        return lambda column: column in FEW_COLUMNS or of_panel(column)
    return lambda column: not of_panel(column) or (not sign)


def selections() -> list[str]:
    """All selections of columns: a panel whose columns are the few ones alone adds nothing to them."""
    slugs = [panel.slug for panel in panels() if not set(panel.columns) <= FEW_COLUMNS]
    return [ALL, FEW, *(f"{FEW}+{slug}" for slug in slugs), *(f"{ALL}-{slug}" for slug in slugs)]


def narrowed(run: Run, wanted: Callable[[str], bool]) -> Run:
    """`run` as if only the wanted canonical columns had been logged. Its journal and its manifest stay."""

    def narrow(log: Any) -> Any:
        kept = {name: own for name, own in log.names.logged_as.items() if name in (*KEYS, "time") or wanted(name)}
        return replace(log, names=replace(log.names, logged_as=kept, unknown=()))

    metrics, *batches = (narrow(log) for log in run._logs)
    return Run(
        path=run.path,
        root=run.root,
        source=run.source,
        manifest=run.manifest,
        journal=run.journal,
        checkpoints=run.checkpoints,
        notes=run.notes,
        metrics=metrics,
        batches=batches[0] if batches and set(batches[0].names.logged_as) - {*KEYS, "time"} else None,
    )


def draft(runs: Path, key: str, seed: int, code: str) -> Row:
    """Diagnose one run, and compare with the truth."""
    family, fault, columns = key.split("/")
    path = folder(runs, family, fault, seed)
    truth = read_truth(path)
    started = time.process_time()
    run = open_run(path)
    diagnosis = diagnose(run if columns == ALL else narrowed(run, columns_of(columns)), text=False)
    worst = diagnosis.incidents[0] if diagnosis.incidents else None
    onset = truth["onset_step"]
    ranked = worst.hypotheses if worst else ()
    causes = {hypothesis.cause: round(hypothesis.probability, 4) for hypothesis in ranked}
    top = next(iter(causes), None)
    return Row(
        fault=key,
        seed=seed,
        code=code,
        draft_cpu_s=time.process_time() - started,
        verdict=worst.verdict if worst else diagnosis.verdict,
        incidents=len(diagnosis.incidents),
        found=any(begins_at(i.onset_interval, i.onset_step, onset) for i in diagnosis.incidents),
        abstained=top == "unknown" or (worst is not None and worst.verdict == "undecided"),
        top_cause=top,
        top_probability=causes[top] if top else None,
        rank=list(causes).index(fault) + 1 if fault in causes else None,
        onset_error=worst.onset_step - onset if worst and onset is not None else None,
        probabilities=json.dumps(causes),
    )


def begins_at(interval: tuple[int, int] | None, first: int, onset: int | None) -> bool:
    """Whether an incident whose first abnormal row is `first` begins at most `NEAR` steps from `onset`. Where rows are
    far apart, it begins within its `interval` (last normal row, `first`]."""
    if onset is None:
        return True
    last_normal = interval[0] if interval else first - 1
    return last_normal + 1 - NEAR <= onset <= first + NEAR


def show(runs: Path, clean_seeds: tuple[int, ...], key: str, seed: int, code: str) -> Shown:
    """Compare one run with its clean twin, and with the clean runs of all seeds."""
    family, fault = key.split("/")
    path = folder(runs, family, fault, seed)
    truth = read_truth(path)
    first = truth["onset_step"] if truth["onset_step"] is not None else 0 if fault == "lr_too_high" else truth["at"]
    clean = {other: numbers(folder(runs, family, CLEAN, other)) for other in clean_seeds}
    run = numbers(path)
    steps = run["step"][run["step"] >= first]
    aligned = [_at(steps, columns) for columns in (run, clean[seed], *clean.values())]
    names = visible(fault, aligned[0], aligned[1], aligned[2:])
    return Shown(key, seed, code, json.dumps(names))


@cache
def numbers(path: Path) -> Mapping[str, Floats]:
    """The columns that a run measured in each of its rows, float[n] each, and the rows' `step`."""
    run = open_run(path)
    wide = {name: series for name in run.columns if not is_clock(name) and (series := run.series(name)) is not None}
    columns: dict[str, Floats] = {"step": run.row_steps.astype(float)}
    return columns | {name: series.value for name, series in wide.items() if np.array_equal(series.step, run.row_steps)}


def _at(steps: Floats, columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """The rows of `columns` at `steps`, which are among theirs."""
    places = np.searchsorted(columns["step"], steps)
    return {name: values[places] for name, values in columns.items() if name != "step"}
