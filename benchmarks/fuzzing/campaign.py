"""Many inputs, in several processes, with all counts in one JSON file: a later call continues where this one ended."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import pkgutil
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import postmortem
from postmortem.atomic import write_text
from postmortem.causes import causes
from postmortem.detectors import detectors
from postmortem.interventions import intervention_classes
from postmortem.jsonio import read_record, strict_json
from postmortem.panels import panels
from postmortem.report import formats
from postmortem.sources import sources

from . import judge
from .commands import CommandInput, commands
from .corpus import corpus, write_tree
from .isolate import Ending, Limits, run_each

CHUNK = {"reader": 250, "command": 10}  # inputs between two savings
_TRAINING_S = 120.0  # seconds that a command may take if it trains or starts processes
_IMPORTED_LATE = ("PIL.PngImagePlugin", "pyarrow.compute", "pyarrow.parquet", "rich.console", "yaml")
_NOT_IMPORTED = ("__main__", ".huggingface.", ".lightning.", ".leg")  # programs, and frameworks: seconds


@dataclass
class Tally:
    """Counts of one kind of inputs: the number that comes `next`, seconds of work, the largest peak (bytes) and the
    longest time (s) of one input, and how often each outcome of each name came, its findings under their problem."""

    next: int = 0
    seconds: float = 0.0
    peak: int = 0
    slowest: float = 0.0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])

    def add(self, other: Tally) -> None:
        """Add the counts of a chunk."""
        self.next, self.seconds = self.next + other.next, self.seconds + other.seconds
        self.peak, self.slowest = max(self.peak, other.peak), max(self.slowest, other.slowest)
        for name, outcomes in other.outcomes.items():
            self.outcomes[name] = dict(Counter(self.outcomes.get(name, {})) + Counter(outcomes))


@dataclass
class Finding:
    """Inputs that did the same forbidden thing at the same place: the verdict on the first, its number, how many."""

    verdict: judge.Verdict
    kind: str
    first: int
    count: int = 1


@dataclass
class State:
    """A campaign so far. code: the hash of what was fuzzed; with another one it begins anew."""

    seed: int
    code: str
    reader: Tally = field(default_factory=Tally)
    command: Tally = field(default_factory=Tally)
    findings: dict[str, Finding] = field(default_factory=dict[str, Finding])


def load(file: Path, seed: int, code: str) -> State:
    """The state in `file` if it is of this seed and code, otherwise a new one."""
    state = read_record(State, file, "the state of a campaign") if file.exists() else State(seed, code)
    return state if (state.seed, state.code) == (seed, code) else State(seed, code)


def warm_up() -> None:
    """Import the package and what it imports late, and make the corpus, so that forked children need not."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    walked = [module.name for module in pkgutil.walk_packages(postmortem.__path__, "postmortem.")]
    for name in (*walked, *_IMPORTED_LATE):
        if not any(part in name for part in _NOT_IMPORTED):
            with suppress(ImportError):
                importlib.import_module(name)
    for discovered in (sources, detectors, panels, causes, formats, intervention_classes, corpus, commands):
        discovered()


def run(state: State, file: Path, wanted: dict[str, int], jobs: int, say: Callable[[str], None]) -> None:
    """Go on until `wanted` inputs of each kind are done; the state is saved after every chunk."""
    chunks = list(_chunks(state, wanted))
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = file.parent / f"{file.stem}-findings"
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for number, (kind, tally, findings) in enumerate(pool.imap(_run_chunk, chunks), 1):
            getattr(state, kind).add(tally)
            for key, finding in findings.items():
                if key in state.findings:
                    state.findings[key].count += finding.count
                else:
                    state.findings[key] = finding
                    keep_input(state.seed, finding.kind, finding.first, folder / f"{len(state.findings):03d}")
                    say(f"finding {len(state.findings)}: {describe(finding)}")
            write_text(file, strict_json(state))
            say(f"{number} of {len(chunks)} chunks; {state.reader.next:,} inputs, {state.command.next:,} commands")


def _chunks(state: State, wanted: dict[str, int]) -> Iterator[tuple[int, str, int, int]]:
    """(seed, kind, first, last + 1) of what is missing, the two kinds by turns."""
    starts = {kind: list(range(getattr(state, kind).next, wanted[kind], CHUNK[kind])) for kind in CHUNK}
    spread = [(at / len(s), kind, first) for kind, s in starts.items() for at, first in enumerate(s)]
    for _, kind, first in sorted(spread):
        yield state.seed, kind, first, min(first + CHUNK[kind], wanted[kind])


def _run_chunk(chunk: tuple[int, str, int, int]) -> tuple[str, Tally, dict[str, Finding]]:
    seed, kind, first, end = chunk
    tally, findings = Tally(), dict[str, Finding]()
    began = time.monotonic()
    for index, verdict, ending in run_inputs(seed, kind, range(first, end)):
        tally.next += 1
        tally.peak, tally.slowest = max(tally.peak, ending.peak), max(tally.slowest, ending.seconds)
        outcomes = tally.outcomes.setdefault(verdict.name, {})
        outcome = verdict.problem or verdict.outcome
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if verdict.problem:
            place = verdict.frame or verdict.detail or verdict.name
            finding = findings.setdefault(
                f"{kind} {verdict.problem} {verdict.detail} {place}", Finding(verdict, kind, index, 0)
            )
            finding.count += 1
    tally.seconds = time.monotonic() - began
    return kind, tally, findings


def run_inputs(seed: int, kind: str, indices: Sequence[int]) -> Iterator[tuple[int, judge.Verdict, Ending]]:
    """(index, verdict, ending) of each input."""
    scratch = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-")))
    try:
        if kind == "command":
            for index in indices:
                yield index, *_command(judge.command_input(seed, index), scratch / f"command-{index}")
            return
        for index, ending in run_each(indices, lambda i: asdict(judge.run_reader(seed, i, scratch)), Limits()):
            if ending.problem:
                name = judge.reader_input(seed, index)[0].name
                yield index, judge.Verdict(name, "ended", ending.problem, frame=ending.frame), ending
            else:
                yield index, judge.Verdict(**ending.result), ending
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _command(given: CommandInput, sandbox: Path) -> tuple[judge.Verdict, Ending]:
    before = judge.prepare(given, sandbox)
    limits = Limits(seconds=_TRAINING_S) if given.drives else Limits()
    ((_, ending),) = list(run_each([0], lambda _: judge.run_command(given, sandbox), limits))
    if ending.problem:
        verdict = judge.Verdict(given.name or "postmortem", "ended", ending.problem, frame=ending.frame)
    else:
        verdict = judge.judge_command(given, ending.result, sandbox, before)
    shutil.rmtree(sandbox, ignore_errors=True)
    return verdict, ending


def keep_input(seed: int, kind: str, index: int, folder: Path) -> None:
    """Write the files of one input below `folder`, with the words of the command."""
    shutil.rmtree(folder, ignore_errors=True)
    if kind == "reader":
        write_tree(judge.reader_input(seed, index)[1], folder)
        return
    given = judge.command_input(seed, index)
    write_tree(given.tree, folder)
    (folder / "words.json").write_text(json.dumps({"words": given.words, "output": given.output}, indent=1))


def describe(finding: Finding) -> str:
    """One line about a finding, with what repeats it."""
    v = finding.verdict
    what = ", ".join(filter(None, (v.problem, v.detail, v.frame)))
    return f"{v.name}: {what} ({finding.count} times; --only {finding.kind}:{finding.first})"
