"""The program contract: entry points, skip windows, pieces of state."""

from __future__ import annotations

import subprocess
import sys

import pytest

from postmortem.errors import UsageError
from postmortem.program import next_index, resolve, select


def test_entry_point_resolves_to_the_named_factory() -> None:
    assert resolve("postmortem.program:next_index") is next_index


@pytest.mark.parametrize(
    ("entry_point", "said"),
    [
        ("postmortem.program", "module:attribute"),
        (":build", "module:attribute"),
        ("no_such_package.train:build", "no_such_package"),
        ("postmortem.program:nothing", "nothing"),
        ("postmortem.program:__doc__", "cannot be called"),
    ],
)
def test_entry_point_that_leads_nowhere_is_refused(entry_point: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve(entry_point)


def test_import_happens_only_on_resolving() -> None:
    code = "import sys, postmortem.program; sys.exit('torch' in sys.modules or 'postmortem.lab' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("position", "skip", "expected"),
    [
        (5, [], 5),
        (311, [(312, 512)], 311),
        (312, [(312, 512)], 512),
        (511, [(312, 512)], 512),
        (512, [(312, 512)], 512),
        (3, [(5, 9), (3, 5)], 9),
        (3, [(2, 8), (4, 6)], 8),
    ],
)
def test_next_index_leaves_half_open_windows_out(position: int, skip: list[tuple[int, int]], expected: int) -> None:
    assert next_index(position, skip) == expected


def test_select_takes_named_pieces_in_their_nesting() -> None:
    state = {"model": {"w": 1}, "optimizer": {"step": 3, "m": {"w": 2}}, "rng": {"dropout": 4}}
    assert select(state, ["model", "optimizer.step"]) == {"model": {"w": 1}, "optimizer": {"step": 3}}


def test_select_names_a_piece_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"optimizer\.v"):
        select({"optimizer": {"step": 3}}, ["optimizer.v"])
