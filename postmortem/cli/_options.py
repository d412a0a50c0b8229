"""Arguments and options that several commands share, and option values that need more than a type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from postmortem.arithmetic import Mode
from postmortem.errors import UsageError
from postmortem.text import plain

RunArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", show_default=False, help="A run directory that a recorder wrote.")
]
DiagnosisArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DIAGNOSIS", help="A diagnosis.json that a draft wrote.")
]
IncidentOption: TypeAlias = Annotated[
    int | None, typer.Option("--incident", metavar="N", help="Take incident N instead of the worst.")
]
FirstIncidentOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--incident",
        metavar="N",
        help="Examine incident N. Default: the first incident of the chain that ends in the worst one.",
    ),
]
AtOption: TypeAlias = Annotated[
    int | None, typer.Option("--at", metavar="STEP", help="Take the incident at this step.")
]
MapOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME=COLUMN,...", help="Which column of a log means what, if names are unusual."),
]
ChangeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--change", metavar="NAME=VALUE", help="Change this, once or often; see postmortem interventions."),
]
AttemptOption: TypeAlias = Annotated[
    int | None, typer.Option("--attempt", metavar="K", help="Follow the run as attempt K saw it, discarded or not.")
]
ProgramOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--program", metavar="MODULE:FACTORY", help="Train with this program instead of the run's own."),
]
TrustOption: TypeAlias = Annotated[bool, typer.Option("--trust", help="Import and run the program that the run names.")]
ArithmeticOption: TypeAlias = Annotated[
    Mode | None,
    typer.Option("--arithmetic", help="Compute with the kernels and threads of the run, or with this machine's."
                 " [default: recorded]"),
]  # fmt: skip
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def moved(option: str, command: str) -> Any:
    """A hidden option that became a command: whoever still types it reads which one."""

    def refuse(value: object) -> None:
        if value:
            raise UsageError(f"{option} is a command now: {command}")

    return typer.Option(option, hidden=True, is_eager=True, callback=refuse)


def parse_map(values: Sequence[str]) -> dict[str, str]:
    """`loss=train/loss,step=global_step`, given once or often, as {canonical name: the log's name}."""
    mapping: dict[str, str] = {}
    for item in (item for value in values for item in value.split(",")):
        name, equals, column = (part.strip() for part in item.partition("="))
        if not (name and equals and column):
            raise UsageError(
                f"--map: {plain(item)!r} is not NAME=COLUMN. Example: --map loss=train/loss,step=global_step"
            )
        if mapping.get(name, column) != column:
            raise UsageError(f"--map: {plain(name)} is mapped twice, to {plain(mapping[name])} and to {plain(column)}.")
        mapping[name] = column
    return mapping


def parse_maps(values: Sequence[str], logs: int) -> list[dict[str, str]]:
    """`loss=train/loss,2:loss=Loss` as one mapping for each of so many logs: `2:` is for the second only."""
    for_each: list[list[str]] = [[] for _ in range(logs)]
    for item in (item.strip() for value in values for item in value.split(",")):
        number, colon, rest = item.partition(":")
        alone = bool(colon) and _is_index(number)
        if alone and not 1 <= int(number) <= logs:
            raise UsageError(f"--map {plain(item)}: there is no log number {int(number)}, but {logs}")
        for place in [int(number) - 1] if alone else range(logs):
            for_each[place].append(rest if alone else item)
    return [parse_map(of_log) for of_log in for_each]


def parse_indices(option: str, text: str | None) -> tuple[int, ...]:
    """`300,312` as numbers; None as no numbers."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(map(_is_index, parts)):
        raise UsageError(f"{option} {plain(text)!r}: expected whole numbers, such as 300,312")
    return tuple(map(int, parts))


def parse_window(option: str, text: str) -> tuple[int, int]:
    """`312:512` as the half-open window [312, 512)."""
    first, colon, last = text.partition(":")
    if not (colon and _is_index(first) and _is_index(last)):
        raise UsageError(f"{option} {plain(text)!r}: expected FIRST:LAST, half-open, such as 312:512")
    if int(last) <= int(first):
        raise UsageError(f"{option} {plain(text)!r}: [{int(first)}, {int(last)}) contains no batch")
    return int(first), int(last)


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 15
