"""Flags of the whole test suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A loaded machine is slow, which is no failure. The same examples each time in CI: a red build is about the change.
settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="rewrite the golden files from what is rendered now")


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))
