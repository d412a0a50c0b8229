"""Command lines for every command, made from the arguments and options that the command itself declares.

A new command or option is fuzzed as soon as it exists: its metavar says what it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import typer.main

from .corpus import Tree, corpus
from .hostile import WORDS
from .mutate import mutated

INSTALLED = "runs-diff"
SENTINEL = "sentinel"  # a folder beside the working directory, which no command may change
_ROOT = ""  # `postmortem` without a command
# fmt: off
_LOGS = (
    "csv", "tsv", "jsonl", "json", "trainer_state", "parquet", "wandb", "text_nanogpt", "text_keras", "folder",
    "recorded", "rows", "lab",
)  # fmt: skip
_CHECKPOINTS = ("recorded", "lab", "dcp", "torch_zip", "torch_legacy", "huggingface")
_DRIVEN = ("recorded", "recorded", "lab")
_NUMBERS = ("0", "1", "2", "7", "60", "110", "300", "-1", "999999999999999999", str(2**63), "1e9", "٣", "1_0", "nan")
_SMALL = ("20", "24", "6", "1", "0", "-1", "x", "1e3", "", "2.5")  # where a large number is honest work
_FOLDERS = ("out", "out/deep/er", "run/postmortem", "jobs", "", ".", "other", "/dev/full", "/dev/null/x", "a" * 300)
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {  # by metavar, or option where there is none
    "N": _NUMBERS,
    "STEP": _NUMBERS,
    "K": _NUMBERS,
    "M": ("101", "112", "0", "-5", "x"),
    "STEPS": _NUMBERS,
    "DIR": _FOLDERS,
    "X": ("1.5", "0", "-1", "nan", "inf", "1e400"),
    "N,...": ("100", "100,120", "1,,2", "9" * 30),
    "A:B": ("108:112", "5:5"),
    "A:B[,C:D]": ("110:111", "none", "1:2,4:3", "0:99999999999999999999"),
    "OTHER": ("other", "run", "nowhere"),
    "PATH": ("lessons.md", "notes/new.md", "out", "/dev/full", "rollback/step-00000100.dcp", "../sentinel", ""),
    "NAME=COLUMN,...": ("loss=loss", "step=step,loss=grad_norm", "lr=x", "batch_hash=loss", "loss=", "=x", "a=b=c"),
    "NAME=VALUE": ("skip=110:111", "lr-scale=0.5", "clip=1", "set=lr=3", "noise=1", "move=110:111:135", "x="),
    "MODULE:FACTORY": ("tests.replay.rogue_program:build", "postmortem.lab.program:build", "nowhere:x", "", ":", "a.b"),
    "PROGRAM": ("postmortem.lab.program:build", "nowhere:x", "json:dumps", ":", ""),
    "WHAT": ("full", "parameters", "x"),
    "FORMAT": ("md", "json", "terminal", "csv", "folder", "x"),
    "FAULT": ("none", "bit_flip", "lr_discontinuity", "x"),
    "[SLUG]": ("bit_flip", "unknown", "x"),
    "--mode": ("all", "watchdog", "x"),
    "--arithmetic": ("recorded", "native", ""),
    "--dtype": ("fp32", "bf16-master", "x"),
    "--optimizer": ("adamw", "sgd", "adafactor", "x"),
    "DIAGNOSIS": ("run/postmortem/diagnosis.json",),
}
# fmt: on
_CHEAP = {("lab", "--steps"), ("test-resume", "--steps"), ("test-resume", "--threads")}  # always given, and small
_FILES = {"run-job": "jobs/R0.json", "test-resume": "config.json", "plan": "policy.yaml"}


@dataclass(frozen=True)
class CommandInput:
    """One command line, run in the folder "box" of a sandbox that holds `tree`. output: what standard output is, a
    "file", "full", "closed" or a "broken pipe". drives: it may train or start processes."""

    name: str
    words: tuple[str, ...]
    tree: Tree
    output: str
    drives: bool


@dataclass(frozen=True)
class _Plan:
    """weight: how often, compared with others. runs: what the run is made of. always: options that keep it cheap."""

    weight: float = 1.0
    runs: tuple[str, ...] = _LOGS
    drives: bool = False
    always: tuple[str, ...] = ()


_PLANS: Mapping[str, _Plan] = {
    "draft": _Plan(7),
    "diff": _Plan(3),
    "report": _Plan(3, ("recorded",)),
    "verify": _Plan(2, ("recorded",), drives=True),
    "checkpoints": _Plan(3, _CHECKPOINTS),
    "doctor": _Plan(3, (*_LOGS, "recorded", "lab")),
    "replay": _Plan(2, _DRIVEN, drives=True),
    "probe": _Plan(1.5, _DRIVEN, drives=True),
    "run-job": _Plan(1.5, _DRIVEN, drives=True),
    "prove": _Plan(1.5, _DRIVEN, drives=True, always=("--dry-run",)),
    "bisect": _Plan(0.7, _DRIVEN, drives=True, always=("--window", "9:5")),
    "test-resume": _Plan(0.2, drives=True),
    "lab": _Plan(0.5, drives=True),
    **{name: _Plan(0.3) for name in (_ROOT, "explain", "interventions")},
}


@cache
def commands() -> dict[str, Any]:
    """Every command by name, as click sees it: `postmortem` itself as "", and `runs-diff`."""
    from postmortem.cli import app
    from postmortem.cli.runs_diff import app as installed

    group: Any = typer.main.get_command(app)
    return {_ROOT: group, INSTALLED: typer.main.get_command(installed), **group.commands}


def make_input(rng: Random) -> CommandInput:
    """A command line with its files, damaged or sound."""
    name = rng.choices(list(commands()), [_PLANS.get(name, _Plan()).weight for name in commands()])[0]
    plan, trees = _PLANS.get(name, _Plan()), corpus()
    run, other = trees[rng.choice(plan.runs)], trees[rng.choice(_LOGS)]
    words = _words(rng, name, plan, f"run/{next(iter(run))}" if len(run) == 1 and rng.random() < 0.8 else "run")
    beside = {"lessons.md": b"- mine\n", **trees["jobs"], **trees["policy"], **trees["config"]}
    folders = {"box/run/": run, "box/other/": other, "box/": beside}
    tree = {folder + path: content for folder, inner in folders.items() for path, content in inner.items()}
    if rng.random() < 0.75:
        damaged = rng.choice(("box/run/*", "box/run/*", "box/*", "box/run/*.json", "box/run/postmortem/*"))
        spare = [content for content in tree.values() if isinstance(content, bytes)]
        tree = mutated(rng, tree, f"box/{_FILES[name]}" if name in _FILES else damaged, spare)
    kept = ("run.json", "journal.jsonl", "postmortem/diagnosis.json")
    tree |= {f"{SENTINEL}/{path}": trees["recorded"][path] for path in kept}
    output = rng.choices(("file", "full", "closed", "broken pipe"), (94, 2, 2, 2))[0]
    return CommandInput(name, words, tree, output, plan.drives)


def _words(rng: Random, name: str, plan: _Plan, run: str) -> tuple[str, ...]:
    words: list[str] = [] if name in (_ROOT, INSTALLED) else [name]
    for parameter in commands()[name].params:
        option = "" if parameter.param_type_name == "argument" else max(parameter.opts, key=len)
        share = 1.0 if (name, option) in _CHEAP else 0.97 if parameter.required or not option else 0.14
        share = 0.04 if option in ("--program", "--list", "--source", "--trust") else share
        if option == "--help" or rng.random() > share:
            continue
        if option and getattr(parameter, "is_flag", False):
            words.append(rng.choice((*parameter.opts, *parameter.secondary_opts)))
            continue
        words += [option] if option else []
        words.append(_value(rng, name, option, str(parameter.metavar), run))
        words += ["other"] if parameter.nargs == -1 else []
    if rng.random() < 0.9 and not set(plan.always) & set(words):
        words += plan.always
    words += ["--trust"] if plan.runs == _DRIVEN and rng.random() < 0.5 else []
    if rng.random() < 0.04:
        words.insert(rng.randrange(len(words) + 1), rng.choice((*WORDS, "--help", "-h", "--version", "--", "-")))
    return tuple(map(_typed, words))


def _value(rng: Random, name: str, option: str, metavar: str, run: str) -> str:
    if (name, option) in _CHEAP:
        return rng.choice(_SMALL)
    if rng.random() < 0.07 and metavar != "M":
        return rng.choice(WORDS)
    if metavar in ("RUN", "A B [C ...]"):
        return run
    if metavar == "FILE":
        return _FILES[name]
    return rng.choice(_ARGUMENTS.get(metavar, _ARGUMENTS.get(option, _NUMBERS)))


def _typed(word: str) -> str:
    """A word as a shell can pass it: no NUL, no half surrogate pair that is no byte."""
    return word.replace("\x00", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
