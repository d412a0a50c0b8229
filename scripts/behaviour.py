"""What the tool says of many runs, one line a run, so that a change that should change nothing can show that it does.

    python scripts/behaviour.py > before.jsonl                    sample runs, and ../shared/real_logs where they are
    python scripts/behaviour.py RUN ... > before.jsonl            other runs and logs
    python scripts/behaviour.py --against before.jsonl RUN ...    after the change: exit code 1 if a verdict is another

Only the commands' own JSON is read (`draft --json`, `runs-diff --json`), none of the package's modules, so that a
change may rename and move whatever it wants. Of each run: verdict; of each incident: kind, onset, attempt, outcome,
verdict, every cause with its probability, and every observation with its weights. Of the sample runs also how each pair
compares. A log that cannot be read is a line, too. A line is other "in figures" where verdicts, incidents and leading
causes are the same and only probabilities, weights or steps of observations are not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "sample_runs"
REAL_LOGS = ROOT.parent / "shared" / "real_logs"


def ask(*words: str) -> Any:
    """The JSON that a command prints, or the first line of what it says instead."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", "postmortem", *words)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(done.stdout)


def drafted(run: Path) -> dict[str, Any]:
    """The line of one run."""
    said = ask("draft", "--json", str(run))
    return {"run": _name(run), **({"error": said["error"]} if "error" in said else _of(said))}


def _of(diagnosis: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": diagnosis["verdict"], "incidents": [_incident(i) for i in diagnosis["incidents"]]}


def _incident(incident: dict[str, Any]) -> dict[str, Any]:
    kept = ("kind", "onset_step", "attempt", "discarded", "peak_step", "recovery_step", "outcome", "verdict")
    return {
        **{key: incident[key] for key in kept},
        "causes": {h["cause"]: round(h["probability"], 6) for h in incident["hypotheses"]},
        "evidence": [
            [e["panel"], e["observation"], e["step"], {c: round(w, 6) for c, w in sorted(e["weights"].items())}]
            for e in incident["evidence"]
        ],
    }


def compared(pair: tuple[Path, Path]) -> dict[str, Any]:
    """The line of a pair of runs."""
    said = ask("diff", "--json", *map(str, pair))
    kept = ("verdict", "reason", "top_lines", "divergence")
    body = {"error": said["error"]} if "error" in said else {key: said[key] for key in kept}
    return {"run": " against ".join(map(_name, pair)), **body}


def said(line: dict[str, Any]) -> dict[str, Any]:
    """A line without its figures: verdicts, and of each incident its facts and its leading cause."""
    found = {key: value for key, value in line.items() if key != "incidents"}
    for number, incident in enumerate(line.get("incidents", ())):
        facts = {key: value for key, value in incident.items() if key not in ("causes", "evidence")}
        found[f"incident {number}"] = {**facts, "cause": next(iter(incident["causes"]), None)}
    return found


def _name(run: Path) -> str:
    """The path without this checkout's own place, so that two checkouts name a run alike."""
    for base in (ROOT, ROOT.parent):
        if run.is_relative_to(base):
            return str(run.relative_to(base))
    return str(run)


def every_log() -> Iterator[Path]:
    """The sample runs, and every file and folder among the real logs that might be one."""
    yield from sorted(p for p in SAMPLES.iterdir() if (p / "run.json").is_file())
    if REAL_LOGS.is_dir():
        yield from sorted(p for p in REAL_LOGS.rglob("*") if p.is_file() and p.suffix not in (".md", ".txt"))


def lines(runs: Sequence[Path], pairs: Iterable[tuple[Path, Path]]) -> Iterator[dict[str, Any]]:
    """Every line, drafted by as many processes at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(drafted, runs)
        yield from pool.map(compared, pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="instead of the sample runs and real logs")
    parser.add_argument("--against", type=Path, metavar="FILE", help="lines of before the change")
    arguments = parser.parse_args()
    runs = [run.resolve() for run in arguments.runs]
    samples = sorted(p for p in SAMPLES.iterdir() if (p / "run.json").is_file())
    found = lines(runs or list(every_log()), [] if runs else combinations(samples, 2))
    if arguments.against is None:
        for line in found:
            print(json.dumps(line), flush=True)
        return 0
    before = {line["run"]: line for line in map(json.loads, arguments.against.read_text().splitlines())}
    other, figures, seen = 0, list[str](), set[str]()
    for line in found:
        seen.add(line["run"])
        was = before.get(line["run"], {})
        if said(was) != said(line):
            other += 1
            print(f"other: {line['run']}\n  before {json.dumps(was)}\n  now    {json.dumps(line)}")
        elif was != line:
            figures.append(line["run"])
    missing = sorted(before.keys() - seen)
    print(f"other in figures: {', '.join(figures) or 'none'}")
    print(
        f"{len(seen)} runs: {other} other in cause, onset, kind, outcome or verdict, {len(figures)} in figures; "
        f"{len(missing)} of before are missing {missing}"
    )
    return 1 if other or missing else 0


if __name__ == "__main__":
    sys.exit(main())
