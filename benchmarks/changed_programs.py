"""The bench of changed programs: the lab's faults in programs that the rules have not seen.

Six families: other optimizers, other logging, other data. Each seed is trained once per training, the clean twin
included, and logged as each family logs it. A fault counts only where it is *visible*: where a measured column leaves
that of the clean twin (`changed/visible.py`). Drafting is in process, without pictures.

The bench is resumable. The runs are in benchmarks/results/runs (not in git; another place with --runs), and are trained
again only if the code that trains has changed. The rows are kept in benchmarks/results/changed_programs.parquet, and
made again only if the code that diagnoses has changed; what is visible is kept beside them, in
changed_programs_visible.parquet.

For the first --columns-seeds seeds, each run is drafted again with loss, gradient norm and rate alone, with the columns
of each panel added to these three, and with those of each panel left out of all.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from _measure import machine, publish, say
from _results import RUNS, Key, Results, code_hash, fault_options, work
from changed.families import FAMILIES, TRAININGS
from changed.training import CLEAN, ensure_trained, folder, trains
from changed.visible import Floats, visible
from lab_faults import DIAGNOSES, SURE

from postmortem.lab import list_faults
from postmortem.panels import panels
from postmortem.pipeline import diagnose
from postmortem.run import Run
from postmortem.run.columns import KEYS, is_clock
from postmortem.sources import open_run

FAULTS = tuple(sorted(set(list_faults()) - {CLEAN}))
FIRST_SEED = 6_000
NEAR = 5  # steps between the true onset and that of an incident which is taken to be it
ALL, FEW = "all", "few"
FEW_COLUMNS = frozenset({"loss", "grad_norm", "lr"})
BENCH = ("../benchmarks/changed", "../benchmarks/changed_programs.py")


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
    def abstained(self) -> bool:
        return self.verdict == "undecided" or self.top_cause == "unknown"

    @property
    def wrong_and_sure(self) -> bool:
        return not self.right and not self.abstained and (self.top_probability or 0.0) >= SURE


SHOWN = Results("changed_programs_visible", Shown)
DRAFTED = Results("changed_programs", Row)


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
        found=any(begins_at(incident, onset) for incident in diagnosis.incidents),
        top_cause=top,
        top_probability=causes[top] if top else None,
        rank=list(causes).index(fault) + 1 if fault in causes else None,
        onset_error=worst.onset_step - onset if worst and onset is not None else None,
        probabilities=json.dumps(causes),
    )


def begins_at(incident: Any, onset: int | None) -> bool:
    """Whether an incident begins at most `NEAR` steps from `onset`, or between the logged rows around it."""
    if onset is None:
        return True
    last_normal, first = incident.onset_interval or (incident.onset_step - 1, incident.onset_step)
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
    """The measured columns of a run, float[n] each, and their `step`; NaN where a row has no finite value."""
    run = open_run(path)
    wide = {name: series for name in run.columns if not is_clock(name) and (series := run.series(name)) is not None}
    columns: dict[str, Floats] = {"step": run.row_steps.astype(float)}
    return columns | {name: series.value for name, series in wide.items() if np.array_equal(series.step, run.row_steps)}


def _at(steps: Floats, columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """The rows of `columns` at `steps`; a row that is not there is not finite."""
    places = np.searchsorted(columns["step"], steps)
    return {name: values[places] for name, values in columns.items() if name != "step"}


def read_truth(path: Path) -> dict[str, Any]:
    """The truth that is written beside a run."""
    return json.loads(path.with_name(f"{path.name}.truth.json").read_text())


def table(rows: Sequence[Row], shown: Mapping[Key, Shown]) -> str:
    """One line per family, and the sums."""
    lines = [
        (
            "| family | runs | visible | found | first cause right | among the first 3 | abstained | wrong and sure "
            "| clean runs with an incident | taken for |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    whole = [row for row in rows if row.columns == ALL]
    lines += [_line(of.what, [row for row in whole if row.family == name], shown) for name, of in FAMILIES.items()]
    lines.append(_line("**all families**", whole, shown))
    return "\n".join(lines)


def fault_table(rows: Sequence[Row], shown: Mapping[Key, Shown]) -> str:
    """One line per fault, one column per family: right of visible, and what the others were taken for."""
    families = list(FAMILIES)
    lines = [f"| fault | {' | '.join(families)} |", "| --- " * (len(families) + 1) + "|"]
    for fault in FAULTS:
        cells = [
            _cell([row for row in rows if row.fault == f"{family}/{fault}/{ALL}" and is_visible(row, shown)])
            for family in families
        ]
        lines.append(f"| `{fault}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def column_table(rows: Sequence[Row], shown: Mapping[Key, Shown]) -> str:
    """One line per panel: how many visible runs are right with the columns of a panel, and without them."""
    seeds = {row.seed for row in rows if row.columns == FEW}
    considered = [row for row in rows if row.seed in seeds and row.cause != CLEAN and is_visible(row, shown)]
    right = Counter(row.columns for row in considered if row.right)
    sure = Counter(row.columns for row in considered if row.wrong_and_sure)

    def cell(columns: str) -> str:
        return f"{right[columns]} ({sure[columns]})"

    count = sum(row.columns == ALL for row in considered)
    lines = [
        (
            f"Right of {count} visible runs (wrong and sure): with loss, gradient norm and rate alone {cell(FEW)}, "
            f"with all columns {cell(ALL)}."
        ),
        "",
        "| panel | the three and its columns | all but its columns |",
        "| --- | --- | --- |",
    ]
    slugs = [selection.partition("+")[2] for selection in selections() if "+" in selection]
    lines += [f"| {slug} | {cell(f'{FEW}+{slug}')} | {cell(f'{ALL}-{slug}')} |" for slug in slugs]
    return "\n".join(lines)


def is_visible(row: Row, shown: Mapping[Key, Shown]) -> bool:
    """Whether the fault of a draft's run shows in any column of the whole log."""
    return shown[f"{row.family}/{row.cause}", row.seed].columns != "[]"


def _line(title: str, rows: Sequence[Row], shown: Mapping[Key, Shown]) -> str:
    clean = [row for row in rows if row.cause == CLEAN]
    faulty = [row for row in rows if row.cause != CLEAN]
    seen = [row for row in faulty if is_visible(row, shown)]
    wrong = Counter(row.top_cause or "no incident" for row in seen if not row.right)
    cells = [
        title,
        len(faulty),
        len(seen),
        sum(row.found for row in seen),
        _share(sum(row.right for row in seen), len(seen)),
        sum(row.rank is not None and row.rank <= 3 for row in seen),
        sum(row.abstained for row in seen),
        sum(row.wrong_and_sure for row in rows),
        f"{sum(not row.right for row in clean)} of {len(clean)}",
        ", ".join(f"{cause} {count}" for cause, count in wrong.most_common(6)) or "–",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.0f} %)" if whole else "–"


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "–"
    wrong = Counter(row.top_cause or "no incident" for row in rows if not row.right)
    mistaken = "; ".join(f"{cause} {count}" for cause, count in wrong.most_common())
    return f"{sum(row.right for row in rows)} of {len(rows)}{f': {mistaken}' if mistaken else ''}"


def main() -> None:
    parser = fault_options(__doc__ or "", FAULTS, seeds=10, first_seed=FIRST_SEED)
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="only this family (repeatable)")
    parser.add_argument("--columns-seeds", type=int, default=2, help="seeds drafted with fewer columns (default 2)")
    parser.add_argument("--runs", type=Path, help="where the runs are, or are trained")
    arguments = parser.parse_args()
    seeds = tuple(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    families = arguments.family or list(FAMILIES)
    faults = arguments.fault or list(FAULTS)
    runs = arguments.runs or RUNS / "changed"
    pool = partial(ProcessPoolExecutor, initializer=_one_thread)
    trainings = [name for name in TRAININGS if any(FAMILIES[family].training == name for family in families)]
    code = trains()
    work(
        partial(_train, runs, (*faults, CLEAN)),
        [(training, seed) for seed in seeds for training in trainings],
        lambda key, seconds: say(f"{key[0]} {key[1]}: {seconds:.0f} s of CPU") if seconds > 1 else None,
        jobs=arguments.jobs,
        title="training",
        pool=pool,
    )
    shown = SHOWN.complete(
        [(f"{family}/{fault}", seed) for family in families for fault in faults for seed in seeds],
        partial(show, runs, seeds),
        f"{code}-{seeds[0]}-{seeds[-1]}",
        jobs=arguments.jobs,
        title="visible",
        pool=pool,
    )
    chosen = selections()
    keys = [
        (f"{family}/{fault}/{columns}", seed)
        for number, seed in enumerate(seeds)
        for family in families
        for fault in (*faults, CLEAN)
        for columns in (chosen if number < arguments.columns_seeds and fault != CLEAN else [ALL])
    ]
    drafted_by = code_hash((*DIAGNOSES, *BENCH))
    drafts = DRAFTED.complete(keys, partial(draft, runs), drafted_by, jobs=arguments.jobs, title="drafting", pool=pool)
    rows = [drafts[key] for key in keys]
    publish(
        "changed-programs",
        f"{table(rows, shown)}\n\n{fault_table(rows, shown)}\n\n{column_table(rows, shown)}\n\n"
        f"Trained by {code}, drafted by {drafted_by}, seeds {seeds[0]} to {seeds[-1]}, {machine()}.",
        write=arguments.write,
    )


def _train(runs: Path, faults: Sequence[str], key: Key) -> float:
    started = time.process_time()
    ensure_trained(runs, *key, faults)
    return time.process_time() - started


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


if __name__ == "__main__":
    main()
