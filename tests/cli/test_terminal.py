"""Styles only where they are wanted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT, on_a_terminal

pytestmark = pytest.mark.processes
CODE = """
import sys
from tests.report.factory import spike
from postmortem.cli._output import print_lines, print_markdown
from postmortem.cli._terminal import progress, stage, text_width
from postmortem.report import summarize
with stage("Reading"), progress("Training") as advance:
    advance(1, 2, 3.5)
print_lines(summarize(spike(), width=text_width(sys.stdout)))
print_markdown("# Title")
"""


def shown(**environment: str) -> str:
    """What CODE writes to a pseudo-terminal."""
    return on_a_terminal(("-c", CODE), environment)


def test_a_terminal_is_styled_and_fits_its_width() -> None:
    text = shown(TERM="xterm-256color", COLUMNS="60")
    assert "\x1b[1m" in text and "loss spike" in text


@pytest.mark.parametrize("columns", [60, 80])
def test_nothing_is_cut_off(columns: int) -> None:
    text = shown(TERM="dumb", COLUMNS=str(columns))
    assert "only a replay can confirm it" in " ".join(text.split()) and "…" not in text
    for command in ("interventions", "explain"):
        listed = on_a_terminal(("-m", "postmortem", command), {"TERM": "dumb", "COLUMNS": str(columns)})
        assert max(map(len, listed.splitlines())) <= columns and "…" not in listed


@pytest.mark.parametrize("env", [{"TERM": "xterm-256color", "NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nothing_is_styled_where_styles_are_unwanted(env: dict[str, str]) -> None:
    text = shown(**env)
    assert "\x1b" not in text and "19-spike-001  supported" in text and "Reading" not in text


def test_a_pipe_is_neither_styled_nor_wrapped() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, check=True, env={**os.environ, "COLUMNS": "40"}
    )
    assert b"\x1b" not in done.stdout and done.stderr == b""
    assert (
        "The loss rose from 2.31 to 5.84 within two steps of step 312 and settled at 3.40 by step 360."
        in done.stdout.decode()
    )
