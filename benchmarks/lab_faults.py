"""The fault bench: train lab runs with a fault each on seeds the weights never saw, draft them, and count.

Resumable: a row per (fault, seed) is kept in benchmarks/results/lab_faults.parquet as soon as it is known, and made
again only where the code that trains or diagnoses has changed since (`code` is a hash of it). The runs themselves stay
in benchmarks/results/runs (not in git, 3 MB each) and are trained again only where the code that trains has changed. A
fault's slug is its cause's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from _measure import POSTMORTEM, ROOT, cost, machine, publish, say
from _results import Results
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from postmortem.lab import list_faults

FIRST_SEED = 1_000
SURE = 0.8  # a probability that people see as "strong"
CLEAN = "none"
RUNS = ROOT / "benchmarks" / "results" / "runs"
TRAINS = ("lab", "program.py", "training_loop.py", "record", "checkpoint")
DIAGNOSES = (
    "assess",
    "case.py",
    "detectors",
    "diagnosis.py",
    "hypotheses",
    "incident.py",
    "panels",
    "pipeline.py",
    "run",
    "series.py",
    "sources",
)


@dataclass(frozen=True)
class Row:
    """What came of one run. Everything about the diagnosis is that of its worst incident."""

    fault: str
    seed: int
    code: str
    train_cpu_s: float
    draft_cpu_s: float
    verdict: str
    incidents: int
    top_cause: str | None  # None where no incident was found, here and below
    top_probability: float | None
    rank: int | None  # of the true cause, from 1
    onset_error: int | None  # steps, found − true
    outcome: str | None
    probabilities: str  # JSON object, cause → probability

    @property
    def right(self) -> bool:
        """The true cause first; on a clean run: no incident, or one that is called benign."""
        return self.top_cause in (None, "benign") if self.fault == CLEAN else self.rank == 1

    @property
    def abstained(self) -> bool:
        return self.verdict == "undecided" or self.top_cause == "unknown"

    @property
    def wrong_and_sure(self) -> bool:
        return not self.right and not self.abstained and (self.top_probability or 0.0) >= SURE


KEPT = Results("lab_faults", Row)


def code_hash(parts: Sequence[str]) -> str:
    """First 12 hex digits of a SHA-256 over the source in `parts` of the package."""
    digest = hashlib.sha256()
    for name in parts:
        path = ROOT / "postmortem" / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def trained(fault: str, seed: int) -> tuple[Path, float]:
    """(folder, CPU seconds) of a run, trained where it is not there yet; its truth lies beside the folder."""
    run = RUNS / code_hash(TRAINS) / f"{fault}-{seed}"
    spent = run.with_suffix(".cpu_s")
    if not spent.exists():
        shutil.rmtree(run, ignore_errors=True)
        run.parent.mkdir(parents=True, exist_ok=True)
        order = ("--fault", fault, "--seed", str(seed), "--out", str(run))
        spent.write_text(str(cost((*POSTMORTEM, "lab", *order), OMP_NUM_THREADS="1").cpu_s))
    return run, float(spent.read_text())


def make(fault: str, seed: int, code: str) -> Row:
    """Train, draft, and compare with the truth."""
    run, train_cpu_s = trained(fault, seed)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        kept = ("--out", str(out), "--lessons", str(Path(name) / "lessons.md"))
        draft = cost((*POSTMORTEM, "draft", str(run), *kept), OMP_NUM_THREADS="1")
        diagnosis = json.loads((out / "diagnosis.json").read_text())
    onset = json.loads(run.with_name(f"{run.name}.truth.json").read_text())["onset_step"]
    worst = diagnosis["incidents"][0] if diagnosis["incidents"] else None
    causes = {h["cause"]: float(h["probability"]) for h in worst["hypotheses"]} if worst else {}
    top = next(iter(causes), None)
    return Row(
        fault=fault,
        seed=seed,
        code=code,
        train_cpu_s=train_cpu_s,
        draft_cpu_s=draft.cpu_s,
        verdict=worst["verdict"] if worst else diagnosis["verdict"],
        incidents=len(diagnosis["incidents"]),
        top_cause=top,
        top_probability=causes[top] if top else None,
        rank=list(causes).index(fault) + 1 if fault in causes else None,
        onset_error=worst["onset_step"] - onset if worst and onset is not None else None,
        outcome=worst["outcome"] if worst else None,
        probabilities=json.dumps(causes),
    )


def table(rows: Sequence[Row]) -> str:
    """One line per fault, and the sums."""
    lines = [
        "| fault | runs | found | top-1 | top-3 | abstained | wrong and sure | onset error, steps | taken for |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    faults = sorted({row.fault for row in rows}, key=lambda fault: (fault == CLEAN, fault))
    for fault in faults:
        lines.append(_line(f"`{fault}`" if fault != CLEAN else "no fault", [row for row in rows if row.fault == fault]))
    lines.append(_line("**all faults**", [row for row in rows if row.fault != CLEAN]))
    return "\n".join(lines)


def _line(title: str, rows: Sequence[Row]) -> str:
    clean = all(row.fault == CLEAN for row in rows)
    found = sum(row.incidents > 0 for row in rows)
    top3 = "–" if clean else str(sum(row.rank is not None and row.rank <= 3 for row in rows))
    errors = sorted(abs(row.onset_error) for row in rows if row.onset_error is not None)
    error = f"{errors[len(errors) // 2]} (≤ {errors[-1]})" if errors else "–"
    abstained, sure = sum(row.abstained for row in rows), sum(row.wrong_and_sure for row in rows)
    wrong = Counter(row.top_cause or "no incident" for row in rows if not row.right)
    taken = ", ".join(f"{cause} {count}" for cause, count in wrong.most_common()) or "–"
    right = sum(row.right for row in rows)
    return f"| {title} | {len(rows)} | {found} | {right} | {top3} | {abstained} | {sure} | {error} | {taken} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help=f"seeds per fault, from {FIRST_SEED} up (default 10)")
    parser.add_argument("--fault", action="append", choices=sorted(list_faults()), help="only this fault (repeatable)")
    parser.add_argument("--jobs", type=int, default=2, help="runs in parallel (default 2)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    code = code_hash(TRAINS + DIAGNOSES)
    rows = {(row.fault, row.seed): row for row in KEPT.load() if row.code == code}
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    todo = [(f, s) for s in seeds for f in arguments.fault or sorted(list_faults()) if (f, s) not in rows]
    say(f"{len(rows)} rows kept for this code ({code}), {len(todo)} to make")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        ThreadPoolExecutor(arguments.jobs) as pool,
        Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task("lab faults", total=len(todo))
        pending = {pool.submit(make, fault, seed, code): (fault, seed) for fault, seed in todo}
        try:
            for done in as_completed(pending):
                rows[pending[done]] = done.result()
                KEPT.save(list(rows.values()))
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    publish(
        "lab-faults",
        f"""{table(list(rows.values()))}

{_calibration(list(rows.values()))} Code {code}, seeds {FIRST_SEED} to {max(seed for _, seed in rows)}, {machine()}.""",
        write=arguments.write,
    )


def _calibration(rows: Sequence[Row]) -> str:
    """How often the first cause is right where its probability is high, middling or low."""
    parts: list[str] = []
    for word, low, high in (("strong", 0.8, 1.01), ("moderate", 0.4, 0.8), ("weak", 0.0, 0.4)):
        within = [row for row in rows if row.top_probability is not None and low <= row.top_probability < high]
        parts.append(f"{word} {sum(row.right for row in within)} of {len(within)}")
    return f"Where an incident was found, the first cause was right: {', '.join(parts)}."


if __name__ == "__main__":
    main()
