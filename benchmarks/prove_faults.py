"""The proving bench: train lab runs with a fault each on seeds that set nothing, prove each cause, bisect each batch.

Resumable: a row per (fault, seed) is kept in benchmarks/results/prove_faults.parquet as soon as it is known, and made
again only where the code that trains, diagnoses or replays has changed since (`code` is a hash of it). The runs stay in
benchmarks/results/runs (not in git). A fault's slug is its cause's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import POSTMORTEM, ROOT, machine, publish, say
from _results import Results
from lab_faults import DIAGNOSES, RUNS, TRAINS, code_hash
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from postmortem.lab import list_faults

FIRST_SEED = 4_000  # those from 1,000, 2,000 and 3,000 on set the predictions and the interventions right
REPLAYS = ("replay", "training_loop.py", "live_state.py", "program.py")
TRANSIENT = frozenset({"bit_flip", "logging_artifact"})  # what a replay must not show again
BATCH_BORNE = frozenset({"long_tail_tokens", "garbage_data", "empty_labels", "nan_propagation"})
FAULTS = tuple(sorted(set(list_faults()) - {"none"}))
_TRAIN = """
import sys
from pathlib import Path
from postmortem.lab import make_run
make_run(Path(sys.argv[1]), fault=sys.argv[2], seed=int(sys.argv[3]), keep_checkpoints=1000)
"""


@dataclass(frozen=True)
class Row:
    """What came of one run. Bisection is None where the fault is not borne by single batches."""

    fault: str
    seed: int
    code: str
    verdict: str
    cause: str  # confirmed, or shown by a null replay that does not reproduce; "" for none
    top_cause: str  # of the diagnosis before any replay
    reproduced: bool
    text: str
    replays: int
    steps: int
    seconds: float
    window: int | None  # batches searched
    probes: int | None
    bisect_steps: int | None
    naive_steps: int | None
    named: str  # batches, JSON
    batches: str  # the true ones, JSON

    @property
    def transient(self) -> bool:
        return self.fault in TRANSIENT

    @property
    def right(self) -> bool:
        """Confirmed as what it is; not reproducible for the right reason where it was transient."""
        return self.cause == self.fault and self.verdict == ("not_reproducible" if self.transient else "confirmed")

    @property
    def wrong(self) -> bool:
        """Another cause is said to be shown."""
        return self.cause not in ("", self.fault)


KEPT = Results("prove_faults", Row)


def trained(fault: str, seed: int) -> Path:
    """A run with all its checkpoints, trained where it is not there yet; its truth lies beside the folder."""
    run = RUNS / f"prove-{code_hash(TRAINS[:1])}" / f"{fault}-{seed}"
    if not (run.with_suffix(".done")).exists():
        shutil.rmtree(run, ignore_errors=True)
        run.parent.mkdir(parents=True, exist_ok=True)
        _run((sys.executable, "-c", _TRAIN, str(run), fault, str(seed)))
        run.with_suffix(".done").touch()
    return run


def make(fault: str, seed: int, code: str) -> Row:
    """Train, prove, bisect, and compare with the truth."""
    run = trained(fault, seed)
    shutil.rmtree(run / "postmortem", ignore_errors=True)
    truth = json.loads(run.with_name(f"{run.name}.truth.json").read_text())
    first = json.loads(_run((*POSTMORTEM, "draft", str(run), "--json")))["incidents"]
    begun = time.perf_counter()
    proof: dict[str, Any] = {"verdict": "no_incident", "cause": "", "experiments": [], "text": ""}
    if first:
        proof = json.loads(_run((*POSTMORTEM, "prove", str(run), "--workers", "1", "--json")))
    seconds = time.perf_counter() - begun
    found: dict[str, Any] = {}
    if fault in BATCH_BORNE and first:
        found = json.loads(_run((*POSTMORTEM, "bisect", str(run), "--no-rows", "--json"), allowed=(0, 2)) or "{}")
    shutil.rmtree(run / "postmortem", ignore_errors=True)
    return Row(
        fault=fault,
        seed=seed,
        code=code,
        verdict=proof["verdict"],
        cause=proof["cause"],
        top_cause=first[0]["hypotheses"][0]["cause"] if first else "",
        reproduced=any(one["role"] == "R0" and one["outcome"] == "persists" for one in proof["experiments"]),
        text=proof["text"],
        replays=len(proof["experiments"]),
        steps=sum(one["steps"] for one in proof["experiments"]),
        seconds=seconds,
        window=found["window"][1] - found["window"][0] if found else None,
        probes=found.get("probes"),
        bisect_steps=found.get("steps"),
        naive_steps=found.get("naive_steps"),
        named=json.dumps(found.get("batches", [])),
        batches=json.dumps(list(range(*truth["batches"])) if truth["batches"] else []),
    )


def _run(command: Sequence[str], allowed: Sequence[int] = (0,)) -> str:
    """The standard output of a command, "" where it ended with another of the `allowed` codes than 0."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout if done.returncode == 0 else ""


def table(rows: Sequence[Row]) -> str:
    """One line per fault, and the sums."""
    lines = [
        "| fault | runs | reproduced | right | wrong | undecided or refuted | replays | steps | exact batches named | "
        "probes | steps of the search / naive |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fault in sorted({row.fault for row in rows}):
        lines.append(_line(f"`{fault}`", [row for row in rows if row.fault == fault]))
    lines.append(_line("**deterministic**", [row for row in rows if not row.transient]))
    lines.append(_line("**transient**", [row for row in rows if row.transient]))
    return "\n".join(lines)


def _line(title: str, rows: Sequence[Row]) -> str:
    borne = [row for row in rows if row.fault in BATCH_BORNE]
    named = f"{sum(row.named == row.batches for row in borne)} of {len(borne)}" if borne else "–"
    probes = _middle([row.probes for row in borne if row.probes is not None])
    searched = [(row.bisect_steps, row.naive_steps) for row in borne if row.bisect_steps and row.naive_steps]
    share = f"{sum(a for a, _ in searched)} / {sum(b for _, b in searched)}" if searched else "–"
    others = Counter(row.verdict for row in rows if not row.right and not row.wrong)
    left = ", ".join(f"{verdict} {count}" for verdict, count in others.most_common()) or "0"
    cells = [
        title,
        len(rows),
        sum(row.reproduced for row in rows),
        sum(row.right for row in rows),
        sum(row.wrong for row in rows),
        left,
        _middle([row.replays for row in rows]),
        _middle([row.steps for row in rows]),
        named,
        probes,
        share,
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _middle(values: Sequence[int]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]} (≤ {ordered[-1]})" if ordered else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds per fault (default 5)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"the first of them (default {FIRST_SEED})")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this fault (repeatable)")
    parser.add_argument("--jobs", type=int, default=2, help="runs in parallel (default 2)")
    parser.add_argument("--train-only", action="store_true", help="train the runs, and prove nothing yet")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    code = code_hash((*TRAINS, *DIAGNOSES, *REPLAYS))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    wanted = [(fault, seed) for seed in seeds for fault in arguments.fault or FAULTS]
    rows = {(row.fault, row.seed): row for row in KEPT.load() if row.code == code}
    todo = wanted if arguments.train_only else [one for one in wanted if one not in rows]
    say(f"{len(rows)} rows kept for this code ({code}), {len(todo)} to make")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        ThreadPoolExecutor(arguments.jobs) as pool,
        Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task("proving", total=len(todo))
        if arguments.train_only:
            for _ in pool.map(lambda one: trained(*one), todo):
                progress.advance(task)
            return
        pending = {pool.submit(make, fault, seed, code): (fault, seed) for fault, seed in todo}
        try:
            for done in as_completed(pending):
                row = rows[pending[done]] = done.result()
                KEPT.save(list(rows.values()))
                say(f"{row.fault} {row.seed}: {row.verdict} {row.cause} {'' if row.right else row.text}")
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    kept = [rows[one] for one in wanted if one in rows]
    publish("prove-faults", f"{table(kept)}\n\n{_told(kept, code)}", write=arguments.write)


def _told(rows: Sequence[Row], code: str) -> str:
    deterministic = [row for row in rows if not row.transient]
    share = 100 * sum(row.right for row in deterministic) / max(1, len(deterministic))
    return (
        f"Of the deterministic faults {share:.0f} % were confirmed. *Right* is confirmed as what it is, or not "
        "reproducible for the right reason; *wrong*, another cause said to be shown. Replays, steps and probes: median "
        f"(most). Code {code}, {len(rows)} runs of 2,000 steps, seeds from {FIRST_SEED} up, {machine()}."
    )


if __name__ == "__main__":
    main()
