"""What is read and said of public logs: reports of trainings that went wrong, logs that are easily misread, clean runs.

The public cases are in a folder beside the repository; tests/public_cases.py says what has to be said of each, and CI
checks it. The clean runs are the logs there that their labels call clean, the sample runs without a fault, and lab runs
without a fault, which are trained if they are not kept from an earlier run of the benches.
"""

from __future__ import annotations

import sys

from _measure import ROOT, options, publish, say

sys.path.insert(0, str(ROOT))

from lab_faults import CLEAN, FIRST_SEED, trained

from tests.public_cases import (
    CHECKS,
    LOGS,
    REPORTS,
    clean_logs,
    clean_samples,
    judge,
    log_of,
    logs,
    passes_itself,
    read,
    reports,
    said,
)


def report_table() -> str:
    """One line per public report."""
    lines = [
        "| report | incident | onset | outcome | first cause | §6 fails on it | said of it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    judged = [judge(folder) for folder in reports()]
    for j in judged:
        marks = " | ".join("right" if right else "**wrong**" for right in (j.incident, j.onset, j.outcome))
        lines.append(f"| {j.name} | {marks} | {j.cause} | {'yes' if j.verification_fails else '**no**'} | {j.said} |")
    right = sum(j.right for j in judged)
    return "\n".join((*lines, "", f"{right} of {len(judged)} are right in incident, onset and outcome."))


def log_table() -> str:
    """One line per log that an earlier version misread."""
    lines = [
        "| log | what must be | holds | §6 fails on it | said of it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in logs():
        say(entry["case"])
        result = read(log_of(entry["case"]))
        holds = "yes" if CHECKS[entry["case"]](result) else "**no**"
        fails = "yes" if not passes_itself(result) else "**no**"
        lines.append(f"| {entry['case']} | {entry['must']} | {holds} | {fails} | {said(result)} |")
    return "\n".join(lines)


def clean_table(lab_runs: int) -> str:
    """One line per kind of clean run: how many end in which verdict."""
    lines = ["| clean runs | runs | rows | no incident | said of the others |", "| --- | --- | --- | --- | --- |"]
    for title, paths in (
        ("public logs", clean_logs()),
        ("sample runs", clean_samples()),
        ("lab runs", [trained(CLEAN, FIRST_SEED + n)[0] for n in range(lab_runs)]),
    ):
        say(title)
        results = [(path, read(path)) for path in paths]
        rows = sum(int(result.run.row_steps.size) for _, result in results if result.run is not None)
        others = [f"{path.name}: {said(result)}" for path, result in results if said(result) != "no incident"]
        quiet = len(results) - len(others)
        lines.append(f"| {title} | {len(results)} | {rows:,} | {quiet} | {'; '.join(others) or '–'} |")
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--lab-runs", type=int, default=100, help="clean lab runs (default 100)")
    arguments = parser.parse_args()
    if not REPORTS.is_dir() or not LOGS.is_dir():
        say("the public cases are not on this machine: their tables are left unchanged")
        return
    publish("public-reports", report_table(), write=arguments.write)
    publish("public-logs", log_table(), write=arguments.write)
    publish("clean-runs", clean_table(arguments.lab_runs), write=arguments.write)


if __name__ == "__main__":
    main()
