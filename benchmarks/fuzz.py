"""The fuzz target: damaged and hostile files for every reader and every command. Seeded and resumable.

    python benchmarks/fuzz.py --inputs 10000 --commands 300         go on until there are so many
    python benchmarks/fuzz.py --only command:17                     one input again, with what it prints

An input may be read, be refused by one message, or end a command with one of our exit codes and at most one line of
error. Anything else is a finding; docs/benchmarks.md lists what. The counts are kept in --state, and the files of the
first input of each finding beside it. Linux only. `fuzzing/` holds the parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

from _measure import ROOT, machine, options, publish, say

sys.path.insert(0, str(ROOT))

from fuzzing import campaign, commands, judge
from fuzzing.campaign import State, Tally
from fuzzing.corpus import corpus

STATES = ROOT / "benchmarks" / "results" / "runs"


def code_hash() -> str:
    """12 hex digits of a SHA-256 over the package, the fuzz target and its corpus."""
    digest = hashlib.sha256(repr(sorted((k, sorted(v.items(), key=repr)) for k, v in corpus().items())).encode())
    for folder in (ROOT / "postmortem", ROOT / "benchmarks" / "fuzzing"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def table(state: State) -> str:
    """A table of the readers, one of the commands by exit code, and a paragraph with the sums."""
    codes = [f"exit {code}" for code in sorted(judge.CODES)]
    return "\n".join(
        (
            *_rows(state.reader, "reader", ["read", "refused"]),
            "",
            *_rows(state.command, "command", codes),
            "",
            summary(state),
        )
    )


def _rows(tally: Tally, title: str, good: list[str]) -> Iterator[str]:
    yield f"| {title} | inputs | {' | '.join(good)} | findings |"
    yield "| --- " * (len(good) + 3) + "|"
    for name, outcomes in sorted(tally.outcomes.items()):
        counts, total = [outcomes.get(outcome, 0) for outcome in good], sum(outcomes.values())
        yield "| " + " | ".join(map(str, (name, total, *counts, total - sum(counts)))) + " |"


def summary(state: State) -> str:
    """How many inputs there were, how many findings of each sort, and what the worst input took."""
    problems: Counter[str] = Counter()
    for finding in state.findings.values():
        problems[finding.verdict.problem] += finding.count
    listed = ", ".join(f"{problem} {count}" for problem, count in problems.most_common()) or "none"
    peak = max(state.reader.peak, state.command.peak) / 1e6
    done = f"{state.reader.next:,} inputs and {state.command.next:,} commands of seed {state.seed}"
    slowest = f"slowest input {state.reader.slowest:.1f} s, slowest command {state.command.slowest:.1f} s"
    code = f"Code {state.code}, {machine()}."
    return f"{done}. Findings: **{listed}**. Largest peak above the imports: {peak:.0f} MB; {slowest}. {code}"


def again(seed: int, kind: str, index: int) -> int:
    """Run one input again and print all about it; the exit code is 1 if it is a finding."""
    folder = STATES / f"only-{kind}-{index}"
    campaign.keep_input(seed, kind, index, folder)
    os.environ["POSTMORTEM_DEBUG"] = "1"  # a reader's traceback is printed
    if kind == "command":
        given = judge.command_input(seed, index)
        program = commands.INSTALLED if given.name == commands.INSTALLED else "postmortem"
        print(f"cd {folder / 'box'} && {shlex.join([program, *given.words])}   # standard output: {given.output}")
        del os.environ["POSTMORTEM_DEBUG"]
    ((_, verdict, ending),) = campaign.run_inputs(seed, kind, range(index, index + 1))
    print(
        f"files: {folder}",
        f"{ending.seconds:.2f} s",
        f"{ending.peak / 1e6:.0f} MB",
        json.dumps(asdict(verdict)),
        sep="\n",
    )
    return 1 if verdict.problem else 0


def main() -> int:
    parser = options(__doc__ or "")
    parser.add_argument("--inputs", type=int, default=200_000, help="for the readers, in all (default 200,000)")
    parser.add_argument("--commands", type=int, default=5_000, help="command lines, in all (default 5,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="inputs at a time (default 2)")
    parser.add_argument("--state", type=Path, help="where the counts are kept [default: benchmarks/results/runs]")
    parser.add_argument("--readers", nargs="+", default=["*"], metavar="PATTERN", help="only readers of such names")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one input again: reader:12 or command:7")
    arguments = parser.parse_args()
    judge.READERS = tuple(r for r in judge.READERS if any(fnmatch(r.name, pattern) for pattern in arguments.readers))
    campaign.warm_up()
    if arguments.only:
        kind, _, number = arguments.only.partition(":")
        return again(arguments.seed, kind, int(number))
    file = arguments.state or STATES / f"fuzz-{arguments.seed}.json"
    code = " ".join([code_hash(), *(pattern for pattern in arguments.readers if pattern != "*")])
    state = campaign.load(file, arguments.seed, code)
    wanted = {"reader": arguments.inputs, "command": arguments.commands}
    campaign.run(state, file, wanted, arguments.jobs, say)
    for finding in state.findings.values():
        say(campaign.describe(finding))
    publish("fuzz", table(state), write=arguments.write)
    return 1 if state.findings else 0


if __name__ == "__main__":
    sys.exit(main())
