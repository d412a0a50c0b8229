"""Paths that a run names are found as `inside` finds them, at less cost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem.errors import UnreadableInput
from postmortem.run import places as module
from postmortem.run.manifest import inside
from postmortem.run.places import Places

PARTS = st.sampled_from(("", ".", "..", "a", "b", "in", "out", "loop", "gone", "dangling", "ä", "\0", "\udc80", "run"))
PATHS = st.lists(PARTS, max_size=7).map("/".join)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places") / "run"
    (root / "a" / "b" / "a").mkdir(parents=True)
    (root / "a" / "ä").touch()
    (root / "b").touch()
    for folder in (root, root / "a", root / "a" / "b"):
        (folder / "in").symlink_to(root / "a")
        (folder / "out").symlink_to(root.parent)
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("gone")
    return root


def expected(root: Path, named: str) -> tuple[str, bool] | str:
    try:
        target = inside(root, named, "here")
    except UnreadableInput as error:
        return str(error)
    try:
        return str(target), target.exists()
    except OSError:
        return str(target), False


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(named=st.lists(PATHS | PATHS.map("/".__add__), min_size=1, max_size=4))
def test_every_path_is_found_or_refused_as_inside_does(run: Path, named: list[str]) -> None:
    for root in (run, run.parent / "." / "run" / "in"):
        places = Places(root)
        for name in (*named, str(root) + "/" + named[0]):
            try:
                found: tuple[str, bool] | str = places.find(name, "here")
            except UnreadableInput as error:
                found = str(error)
            assert found == expected(root, name)


def test_many_paths_cost_one_look_each(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, looks = Places(run), list[str]()

    def look(path: str, *_: object, **__: object) -> bool:
        looks.append(path)
        return False

    monkeypatch.setattr(os, "access", look)
    monkeypatch.setattr(module, "inside", None)
    for step in range(1000):
        assert not places.find(f"a/step-{step}.dcp", "here")[1]
    assert len(looks) <= 1001
