"""Record the verdicts, incidents and causes that the tool reports for many runs, to compare them after a refactoring.

    python scripts/behavior.py > before.jsonl                    the sample runs, and ../shared/real_logs if it exists
    python scripts/behavior.py RUN ... > before.jsonl            other runs and logs
    python scripts/behavior.py --against before.jsonl RUN ...    after the change: exit code 1 if a verdict differs

Only the JSON of the commands is read (`draft --json`, `diff --json`), and no module of the package, so that a change
may rename and move anything. There is one line per run, with its verdict; for each incident its kind, onset, attempt,
outcome and verdict, every cause with its probability, and every observation with its weights. For the sample runs there
is also a line for each pair, with how the two compare. A log that cannot be read gets a line, too. A line differs "in
figures" if verdicts, incidents and leading causes are equal, and only probabilities, weights or the steps of
observations differ.
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
INCIDENT_KEYS = ("kind", "onset_step", "attempt", "discarded", "peak_step", "recovery_step", "outcome", "verdict")
PAIR_KEYS = ("verdict", "reason", "top_lines", "divergence")
SENTENCES = ("reason", "text", "top_lines")


def json_of(*words: str) -> Any:
    """The JSON that a command prints, or {"error": the last line that it prints} if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", "postmortem", *words)
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if process.returncode:
        return {"error": (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]}
    return json.loads(process.stdout)


def run_line(run: Path) -> dict[str, Any]:
    """The line of one run."""
    diagnosis = json_of("draft", "--json", str(run))
    if "error" in diagnosis:
        return {"run": _name(run), "error": diagnosis["error"]}
    incidents = [_incident(incident) for incident in diagnosis["incidents"]]
    return {"run": _name(run), "verdict": diagnosis["verdict"], "incidents": incidents}


def _incident(incident: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: incident[key] for key in INCIDENT_KEYS},
        "causes": {h["cause"]: round(h["probability"], 6) for h in incident["hypotheses"]},
        "evidence": [
            [e["panel"], e["observation"], e["step"], {c: round(w, 6) for c, w in sorted(e["weights"].items())}]
            for e in incident["evidence"]
        ],
    }


def pair_line(pair: tuple[Path, Path]) -> dict[str, Any]:
    """The line of a pair of runs."""
    diff = json_of("diff", "--json", *map(str, pair))
    facts = {"error": diff["error"]} if "error" in diff else {key: diff[key] for key in PAIR_KEYS}
    return {"run": " against ".join(map(_name, pair)), **facts}


def without_figures(line: dict[str, Any]) -> dict[str, Any]:
    """A line without its figures: the verdicts, and for each incident its facts and its leading cause."""
    facts = {key: value for key, value in line.items() if key != "incidents"}
    for number, incident in enumerate(line.get("incidents", ())):
        incident_facts = {key: value for key, value in incident.items() if key not in ("causes", "evidence")}
        facts[f"incident {number}"] = {**incident_facts, "cause": next(iter(incident["causes"]), None)}
    return facts


def without_sentences(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what is only words: a sentence may be written better while the verdict stays."""
    return {
        key: without_sentences(value) if isinstance(value, dict) else value
        for key, value in line.items()
        if key not in SENTENCES
    }


def _name(run: Path) -> str:
    """The path relative to this checkout or its parent, so that two checkouts give a run the same name."""
    for base in (ROOT, ROOT.parent):
        if run.is_relative_to(base):
            return str(run.relative_to(base))
    return str(run)


def sample_runs() -> list[Path]:
    """The committed sample runs."""
    return sorted(path for path in SAMPLES.iterdir() if (path / "run.json").is_file())


def real_logs() -> list[Path]:
    """Every file among the real logs that might be a run."""
    files = REAL_LOGS.rglob("*") if REAL_LOGS.is_dir() else ()
    return sorted(path for path in files if path.is_file() and path.suffix not in (".md", ".txt"))


def all_lines(runs: Sequence[Path], pairs: Iterable[tuple[Path, Path]]) -> Iterator[dict[str, Any]]:
    """Every line, made by as many processes at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(run_line, runs)
        yield from pool.map(pair_line, pairs)


def compare(before: dict[str, dict[str, Any]], lines: Iterable[dict[str, Any]]) -> int:
    """Print how `lines` differ from those of before the change; 1 if they differ in more than figures, else 0."""
    differing, figures, sentences, seen = 0, list[str](), list[str](), set[str]()
    for line in lines:
        seen.add(line["run"])
        old = before.get(line["run"], {})
        bare, bare_before = without_sentences(line), without_sentences(old)
        if without_figures(bare_before) != without_figures(bare):
            differing += 1
            print(f"differs: {line['run']}\n  before {json.dumps(old)}\n  now    {json.dumps(line)}")
        elif bare_before != bare:
            figures.append(line["run"])
        elif old != line:
            sentences.append(line["run"])
    missing = sorted(before.keys() - seen)
    print(f"differing in figures only: {', '.join(figures) or 'no run'}")
    print(f"differing in sentences only: {', '.join(sentences) or 'no run'}")
    print(
        f"{len(seen)} runs: {differing} differ in cause, onset, kind, outcome or verdict, {len(figures)} in figures "
        f"only; {len(missing)} of before are missing {missing}"
    )
    return 1 if differing or missing else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="instead of the sample runs and real logs")
    parser.add_argument("--against", type=Path, metavar="FILE", help="the lines of before the change")
    arguments = parser.parse_args()
    if arguments.runs:
        lines = all_lines([run.resolve() for run in arguments.runs], ())
    else:
        lines = all_lines([*sample_runs(), *real_logs()], combinations(sample_runs(), 2))
    if arguments.against is not None:
        before = map(json.loads, arguments.against.read_text().splitlines())
        return compare({line["run"]: line for line in before}, lines)
    for line in lines:
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
