"""The proving bench: train lab runs with one fault each, prove each cause by replays, and bisect the batches.

The seeds played no part in choosing predictions and interventions. The bench is resumable: the row of each (fault,
seed) is kept in benchmarks/results/prove_faults.parquet, and made again only if the code that trains, diagnoses or
replays has changed since (`code` is a hash of it). The runs stay in benchmarks/results/runs (not in git). A fault has
the slug of its cause.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import POSTMORTEM, machine, output, publish, say
from _results import RUNS, Results, code_hash, ensure_trained, fault_options, keys_of, work
from lab_faults import DIAGNOSES, TRAINS

from postmortem.lab import list_faults

FIRST_SEED = 4_000  # predictions and interventions were chosen on seeds from 1,000, 2,000 and 3,000 on
REPLAYS = ("experiment", "interventions", "program_state.py", "program.py", "replay", "training_loop.py")
TRANSIENT = frozenset({"bit_flip", "logging_artifact"})  # faults that a replay must not show again
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
    """The result of one run. The fields of the bisection are None if the fault is not in single batches."""

    fault: str
    seed: int
    code: str
    verdict: str
    cause: str  # confirmed, or shown by a null replay that does not reproduce; "" if there is none
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
        """The true cause is confirmed; for a transient fault, it is the reason given for not being reproducible."""
        return self.cause == self.fault and self.verdict == ("not_reproducible" if self.transient else "confirmed")

    @property
    def wrong(self) -> bool:
        """The proof names a wrong cause."""
        return self.cause not in ("", self.fault)


KEPT = Results("prove_faults", Row)


def trained(fault: str, seed: int) -> Path:
    """A run with all its checkpoints, trained if it does not exist yet; the truth about it is written beside it."""
    run = RUNS / f"prove-{code_hash(TRAINS[:1])}" / f"{fault}-{seed}"
    train = (sys.executable, "-c", _TRAIN, str(run), fault, str(seed))
    ensure_trained(run, run.with_suffix(".done"), lambda: output(train, one_thread=True))
    return run


def make(fault: str, seed: int, code: str) -> Row:
    """Train, prove, bisect, and compare with the truth."""
    run = trained(fault, seed)
    shutil.rmtree(run / "postmortem", ignore_errors=True)
    truth = json.loads(run.with_name(f"{run.name}.truth.json").read_text())
    incidents = json.loads(_postmortem("draft", str(run)))["incidents"]
    start = time.perf_counter()
    proof: dict[str, Any] = {"verdict": "no_incident", "cause": "", "experiments": [], "text": ""}
    if incidents:
        proof = json.loads(_postmortem("prove", str(run), "--workers", "1"))
    seconds = time.perf_counter() - start
    search: dict[str, Any] = {}
    if fault in BATCH_BORNE and incidents:
        search = json.loads(_postmortem("bisect", str(run), "--no-rows", allowed=(0, 2)) or "{}")
    shutil.rmtree(run / "postmortem", ignore_errors=True)
    row = Row(
        fault=fault,
        seed=seed,
        code=code,
        verdict=proof["verdict"],
        cause=proof["cause"],
        top_cause=incidents[0]["hypotheses"][0]["cause"] if incidents else "",
        reproduced=any(arm["role"] == "R0" and arm["outcome"] == "persists" for arm in proof["experiments"]),
        text=proof["text"],
        replays=len(proof["experiments"]),
        steps=sum(arm["steps"] for arm in proof["experiments"]),
        seconds=seconds,
        window=search["window"][1] - search["window"][0] if search else None,
        probes=search.get("probes"),
        bisect_steps=search.get("steps"),
        naive_steps=search.get("naive_steps"),
        named=json.dumps(search.get("batches", [])),
        batches=json.dumps(list(range(*truth["batches"])) if truth["batches"] else []),
    )
    say(f"{fault} {seed}: {row.verdict} {row.cause} {'' if row.right else row.text}")
    return row


def _postmortem(*words: str, allowed: Sequence[int] = (0,)) -> str:
    """The JSON that a command prints, "" if its exit code is not 0 but is `allowed`."""
    return output((*POSTMORTEM, *words, "--json"), allowed, one_thread=True)


def table(rows: Sequence[Row]) -> str:
    """One line per fault, and the sums."""
    lines = [
        (
            "| fault | runs | reproduced | right | wrong | undecided or refuted | replays | steps "
            "| exact batches named | probes | steps of the search / naive |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    faults = sorted({row.fault for row in rows})
    lines += [_line(f"`{fault}`", [row for row in rows if row.fault == fault]) for fault in faults]
    lines.append(_line("**deterministic**", [row for row in rows if not row.transient]))
    lines.append(_line("**transient**", [row for row in rows if row.transient]))
    return "\n".join(lines)


def _line(title: str, rows: Sequence[Row]) -> str:
    in_batches = [row for row in rows if row.fault in BATCH_BORNE]
    named = f"{sum(row.named == row.batches for row in in_batches)} of {len(in_batches)}" if in_batches else "–"
    probes = _middle([row.probes for row in in_batches if row.probes is not None])
    searched = [(row.bisect_steps, row.naive_steps) for row in in_batches if row.bisect_steps and row.naive_steps]
    share = f"{sum(a for a, _ in searched)} / {sum(b for _, b in searched)}" if searched else "–"
    open_verdicts = Counter(row.verdict for row in rows if not row.right and not row.wrong)
    undecided = ", ".join(f"{verdict} {count}" for verdict, count in open_verdicts.most_common()) or "0"
    cells = [
        title,
        len(rows),
        sum(row.reproduced for row in rows),
        sum(row.right for row in rows),
        sum(row.wrong for row in rows),
        undecided,
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
    parser = fault_options(__doc__ or "", FAULTS, seeds=5, first_seed=FIRST_SEED)
    parser.add_argument("--train-only", action="store_true", help="train the runs, and prove nothing yet")
    arguments = parser.parse_args()
    keys = keys_of(arguments, FAULTS)
    if arguments.train_only:
        work(lambda key: trained(*key), keys, lambda key, run: say(str(run)), jobs=arguments.jobs, title="training")
        return
    code = code_hash((*TRAINS, *DIAGNOSES, *REPLAYS))
    results = KEPT.complete(keys, make, code, jobs=arguments.jobs, title="proving")
    rows = [results[key] for key in keys]
    publish("prove-faults", f"{table(rows)}\n\n{_summary(rows, code)}", write=arguments.write)


def _summary(rows: Sequence[Row], code: str) -> str:
    deterministic = [row for row in rows if not row.transient]
    share = 100 * sum(row.right for row in deterministic) / max(1, len(deterministic))
    return (
        f"Of the deterministic faults {share:.0f} % were confirmed. *Right*: the true cause was confirmed, or it was "
        "named as the reason why the fault is not reproducible; *wrong*: a wrong cause was named. Replays, steps and "
        f"probes: median (largest). Code {code}, {len(rows)} runs of 2,000 steps, seeds from {FIRST_SEED} up, "
        f"{machine()}."
    )


if __name__ == "__main__":
    main()
