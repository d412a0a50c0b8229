"""Option values that need more than a type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from postmortem.errors import UsageError
from postmortem.text import plain


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
