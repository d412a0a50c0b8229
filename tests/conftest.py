"""Flags of the whole test suite."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

from tests.samples import OTHER_ARITHMETIC

# Hundreds of tests start a process. Where the environment forbids to keep bytecode, each would compile all anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ["tests.replays"]

# A loaded machine is slow, which is no failure. The same examples each time in CI: a red build is about the change.
settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="rewrite the golden files from what is rendered now")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which tests over committed runs were left out here, because this machine computes otherwise than they did."""
    left_out = [
        (report.nodeid, report.longrepr[2].removeprefix("Skipped: "))
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and OTHER_ARITHMETIC in report.longrepr[2]
    ]
    if left_out:
        terminalreporter.section("skipped, because this machine computes otherwise than a committed run did")
        for name, reason in sorted(left_out):
            terminalreporter.line(f"{name}: {reason}")


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))
