"""The bench of changed programs: the lab's faults in programs that the rules have not seen.

The families have other optimizers, other logging, other data. Each seed is trained once per training, the clean twin
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

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from _measure import machine, publish, say
from _results import RUNS, Key, Results, code_hash, fault_options, work
from changed.families import FAMILIES, TRAININGS
from changed.judge import ALL, FEW, Row, Shown, draft, selections, show
from changed.training import CLEAN, ensure_trained
from lab_faults import DIAGNOSES

from postmortem.lab import list_faults

FAULTS = tuple(sorted(set(list_faults()) - {CLEAN}))
FIRST_SEED = 6_020  # those from 6000 on were measured first, and changed rules
PARTS = "../benchmarks/changed"
TRAINS = ("lab", "training_loop.py", f"{PARTS}/families.py", f"{PARTS}/programs.py", f"{PARTS}/training.py")
SHOWS = (*TRAINS, f"{PARTS}/visible.py")
JUDGES = (*DIAGNOSES, f"{PARTS}/judge.py")

SHOWN = Results("changed_programs_visible", Shown)
DRAFTED = Results("changed_programs", Row)


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
    sure = Counter(row.columns for row in considered if row.sure and not row.right)

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
        sum(row.sure and not row.right for row in rows),
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
    if arguments.seeds < 2:
        parser.error("--seeds: what is visible is judged by how far clean runs of several seeds are apart")
    seeds = tuple(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    families = arguments.family or list(FAMILIES)
    faults = arguments.fault or list(FAULTS)
    runs = arguments.runs or RUNS / "changed"
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which import numpy and torch only after this
    pool = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))
    trainings = [name for name in TRAININGS if any(FAMILIES[family].training == name for family in families)]
    code = code_hash(TRAINS)
    work(
        partial(_train, runs, (*faults, CLEAN), code),
        [(training, seed) for seed in seeds for training in trainings],
        lambda key, seconds: say(f"{key[0]} {key[1]}: {seconds:.0f} s of CPU") if seconds > 1 else None,
        jobs=arguments.jobs,
        title="training",
        pool=pool,
    )
    shown = SHOWN.complete(
        [(f"{family}/{fault}", seed) for family in families for fault in faults for seed in seeds],
        partial(show, runs, seeds),
        f"{code_hash(SHOWS)}-{seeds[0]}-{seeds[-1]}",  # the clean runs of these seeds are compared
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
    drafted_by = code_hash(JUDGES)
    drafts = DRAFTED.complete(keys, partial(draft, runs), drafted_by, jobs=arguments.jobs, title="drafting", pool=pool)
    rows = [drafts[key] for key in keys]
    publish(
        "changed-programs",
        f"{table(rows, shown)}\n\n{fault_table(rows, shown)}\n\n{column_table(rows, shown)}\n\n"
        f"Trained by {code}, drafted by {drafted_by}, seeds {seeds[0]} to {seeds[-1]}, {machine()}.",
        write=arguments.write,
    )


def _train(runs: Path, faults: Sequence[str], code: str, key: Key) -> float:
    started = time.process_time()
    ensure_trained(runs, *key, faults, code)
    return time.process_time() - started


if __name__ == "__main__":
    main()
