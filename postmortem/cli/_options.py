"""Option values that need more than a type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from postmortem.arithmetic import Mode
from postmortem.errors import UsageError
from postmortem.text import plain

ArithmeticOption: TypeAlias = Annotated[
    Mode | None,
    typer.Option("--arithmetic", help="Whose kernels and threads to compute with: the run's or this machine's own."
                 " [default: recorded]"),
]  # fmt: skip


def parse_map(values: Sequence[str]) -> dict[str, str]:
    """`loss=train/loss,step=global_step`, given once or often, as {canonical name: the log's own name}."""
    mapping: dict[str, str] = {}
    for item in (item for value in values for item in value.split(",")):
        name, equals, own = (part.strip() for part in item.partition("="))
        if not (name and equals and own):
            raise UsageError(
                f"--map: {plain(item)!r} is not NAME=COLUMN. Example: --map loss=train/loss,step=global_step"
            )
        if mapping.get(name, own) != own:
            raise UsageError(f"--map: {plain(name)} is mapped twice, to {plain(mapping[name])} and to {plain(own)}.")
        mapping[name] = own
    return mapping


def shown(path: Path) -> str:
    """A path as the person would type it: relative to where they are, if it lies below."""
    here = Path.cwd()
    path = path.absolute()
    return plain(path.relative_to(here) if path.is_relative_to(here) else path, 1000)


def parse_indices(option: str, text: str | None) -> tuple[int, ...]:
    """`300,312` as numbers; nothing as none."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= 15 for part in parts):
        raise UsageError(f"{option} {plain(text)!r}: expected whole numbers, as in {option} 300,312")
    return tuple(map(int, parts))


def parse_window(option: str, text: str) -> tuple[int, int]:
    """`312:512` as the half-open window [312, 512)."""
    first, colon, last = text.partition(":")
    if not colon or not all(part.isascii() and part.isdecimal() and len(part) <= 15 for part in (first, last)):
        raise UsageError(f"{option} {plain(text)!r}: expected FIRST:LAST, half-open, as in {option} 312:512")
    if int(last) <= int(first):
        raise UsageError(f"{option} {plain(text)!r}: [{int(first)}, {int(last)}) holds no batch")
    return int(first), int(last)
