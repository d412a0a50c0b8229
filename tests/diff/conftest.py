"""Runs that were really trained, once for all tests; without the extra [train] those tests are not collected."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore = [] if find_spec("torch") and find_spec("xxhash") else ["test_trained.py"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name → run directory, each held against `clean` by the tests."""
    from tests.diff.makers import make_all

    return make_all(tmp_path_factory.mktemp("trained"))
