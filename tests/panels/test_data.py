"""Panel 11 on where the batch of the onset came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.panels.programs import AT, ROWS, observed, program, run_of


@pytest.mark.parametrize(
    ("sources", "slug"),
    [
        (["new"] * (ROWS - AT), "data.source_changed"),
        (["new"] * 70 + ["old"] * 30, "data.source_changed"),
        (["new"] * 10 + ["old"] * 90, "data.new_source"),
        (["new"] + ["old"] * 99, "data.new_source_once"),
        (["old"] * 100, "data.usual_source"),
    ],
    ids=["stays", "stays long", "for a while", "once", "usual"],
)
def test_a_source_that_was_not_there_before_is_not_called_usual(sources: list[str], slug: str, tmp_path: Path) -> None:
    columns = program("adam")
    columns["loss"][AT : AT + 10] += 3
    batches = {"source": ["old"] * AT + sources}
    seen = observed(run_of(tmp_path, columns, batches=batches))
    told = {s: o.text for s, o in seen.items() if "source" in s}
    assert set(told) == {slug}
    assert slug == "data.usual_source" or "which supplied 0 % of the 200 batches before" in told[slug]
