"""The fault bench: train lab runs with one fault each, draft them, and count how often the true cause is ranked first.

The seeds played no part in setting the weights. The bench is resumable: the row of each (fault, seed) is kept in
benchmarks/results/lab_faults.parquet, and made again only if the code that trains or diagnoses has changed since
(`code` is a hash of it). The runs themselves stay in benchmarks/results/runs (not in git, 3 MB each) and are trained
again only if the code that trains has changed. A fault has the slug of its cause.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _measure import POSTMORTEM, cost, machine, publish
from _results import RUNS, Results, code_hash, ensure_trained, fault_options, keys_of

from postmortem.lab import list_faults

FAULTS = tuple(sorted(list_faults()))
FIRST_SEED = 1_000
SURE = 0.8  # a probability that people see as "strong"
CLEAN = "none"
TRAINS = ("lab", "program.py", "training_loop.py", "record", "checkpoint")
DIAGNOSES = (
    "assess",
    "case.py",
    "causes",
    "detectors",
    "diagnosis.py",
    "incident.py",
    "panels",
    "pipeline.py",
    "run",
    "series.py",
    "sources",
    "stats.py",
)


@dataclass(frozen=True)
class Row:
    """The result of one run. Everything about the diagnosis is that of its worst incident."""

    fault: str
    seed: int
    code: str
    train_cpu_s: float
    draft_cpu_s: float
    verdict: str
    incidents: int
    top_cause: str | None  # this field and the ones below are None if no incident was found
    top_probability: float | None
    rank: int | None  # of the true cause, from 1
    onset_error: int | None  # steps, found − true
    outcome: str | None
    probabilities: str  # JSON object, cause → probability

    @property
    def right(self) -> bool:
        """The true cause is first; on a clean run: there is no incident, or one that is called benign."""
        return self.top_cause in (None, "benign") if self.fault == CLEAN else self.rank == 1

    @property
    def abstained(self) -> bool:
        return self.verdict == "undecided" or self.top_cause == "unknown"

    @property
    def wrong_and_sure(self) -> bool:
        return not self.right and not self.abstained and (self.top_probability or 0.0) >= SURE


KEPT = Results("lab_faults", Row)


def trained(fault: str, seed: int) -> tuple[Path, float]:
    """(folder, CPU seconds) of a run, trained if it does not exist yet; the truth about it is written beside it."""
    run = RUNS / code_hash(TRAINS) / f"{fault}-{seed}"
    words = ("lab", "--fault", fault, "--seed", str(seed), "--out", str(run))
    mark = run.with_suffix(".cpu_s")
    return run, float(ensure_trained(run, mark, lambda: str(cost((*POSTMORTEM, *words), one_thread=True).cpu_s)))


def make(fault: str, seed: int, code: str) -> Row:
    """Train, draft, and compare with the truth."""
    run, train_cpu_s = trained(fault, seed)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        words = ("draft", str(run), "--out", str(out), "--lessons", str(Path(name) / "lessons.md"))
        draft = cost((*POSTMORTEM, *words), one_thread=True)
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
    lines += [
        _line(f"`{fault}`" if fault != CLEAN else "no fault", [row for row in rows if row.fault == fault])
        for fault in faults
    ]
    lines.append(_line("**all faults**", [row for row in rows if row.fault != CLEAN]))
    return "\n".join(lines)


def _line(title: str, rows: Sequence[Row]) -> str:
    clean = all(row.fault == CLEAN for row in rows)
    detected = sum(row.incidents > 0 for row in rows)
    top3 = "–" if clean else str(sum(row.rank is not None and row.rank <= 3 for row in rows))
    errors = sorted(abs(row.onset_error) for row in rows if row.onset_error is not None)
    error = f"{errors[len(errors) // 2]} (≤ {errors[-1]})" if errors else "–"
    abstained, sure = sum(row.abstained for row in rows), sum(row.wrong_and_sure for row in rows)
    wrong = Counter(row.top_cause or "no incident" for row in rows if not row.right)
    mistaken = ", ".join(f"{cause} {count}" for cause, count in wrong.most_common()) or "–"
    right = sum(row.right for row in rows)
    return f"| {title} | {len(rows)} | {detected} | {right} | {top3} | {abstained} | {sure} | {error} | {mistaken} |"


def main() -> None:
    arguments = fault_options(__doc__ or "", FAULTS, seeds=10, first_seed=FIRST_SEED).parse_args()
    code = code_hash(TRAINS + DIAGNOSES)
    rows = list(KEPT.complete(keys_of(arguments, FAULTS), make, code, jobs=arguments.jobs, title="lab faults").values())
    seeds = [row.seed for row in rows]
    publish(
        "lab-faults",
        f"""{table(rows)}

{_calibration(rows)} Code {code}, seeds {min(seeds)} to {max(seeds)}, {machine()}.""",
        write=arguments.write,
    )


def _calibration(rows: Sequence[Row]) -> str:
    """How often the first cause is right, where its probability is high, medium or low."""
    parts: list[str] = []
    for word, low, high in (("strong", 0.8, 1.01), ("moderate", 0.4, 0.8), ("weak", 0.0, 0.4)):
        within = [row for row in rows if row.top_probability is not None and low <= row.top_probability < high]
        parts.append(f"{word} {sum(row.right for row in within)} of {len(within)}")
    return f"Where an incident was found, the first cause was right: {', '.join(parts)}."


if __name__ == "__main__":
    main()
