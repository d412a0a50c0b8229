"""What people see of a diff: terminal, page, picture, files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from postmortem.diff import ManyRunsDiff, RunsDiff, diff_many_runs, diff_runs, render
from postmortem.errors import UsageError
from postmortem.run import Run
from postmortem.sources import open_run
from postmortem.terminal_layout import Line, joined
from tests.makers import STEPS, healthy, healthy_batches, worked_example, write_run

HOSTILE = "\x1b[31m<script>\u202e`{{x}}|\n# a"


def text(lines: tuple[Line, ...]) -> list[str]:
    return [joined(line) for line in lines]


def hostile(root: Path) -> Run:
    columns = {**healthy(), HOSTILE: np.arange(STEPS)}
    journal = [
        {"event": "rollback", "step": 300, "to_step": 300, "from_step": 310, "reason": HOSTILE, "changes": [HOSTILE]},
        {"event": "config_change", "step": 3, "key": HOSTILE, "old": HOSTILE, "new": HOSTILE},
    ]
    batches = {**healthy_batches(), "batch_hash": [HOSTILE] * STEPS}
    manifest = {"id": HOSTILE, "config": {HOSTILE: HOSTILE}}
    return open_run(write_run(root, columns, batches=batches, journal=journal, manifest=manifest))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    tmp_path = tmp_path_factory.mktemp("shown")
    clean = write_run(tmp_path / "clean", healthy(), batches=healthy_batches(), manifest={"config": {"lr": 1}})
    return [open_run(clean), open_run(worked_example(tmp_path / "19-spike-001")), hostile(tmp_path / "hostile")]


@pytest.fixture(scope="module", params=["pair", "hostile", "several"])
def result(request: pytest.FixtureRequest, runs: list[Run]) -> RunsDiff | ManyRunsDiff:
    if request.param == "several":
        return diff_many_runs(runs)
    return diff_runs(runs[0], runs[1] if request.param == "pair" else runs[2])


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("everything", [False, True])
def test_lines_fit_the_terminal(result: RunsDiff | ManyRunsDiff, width: int, everything: bool) -> None:
    lines = text(render.summary(result, width, everything=everything))
    assert lines and all(len(line) <= width for line in lines)


def test_ascii_where_the_terminal_knows_no_more(runs: list[Run]) -> None:
    lines = render.summary(diff_runs(*runs[:2]), 80, unicode=False, everything=True)
    assert all(line.isascii() for line in text(lines))


def test_nothing_from_a_run_reaches_the_terminal_or_the_page(result: RunsDiff | ManyRunsDiff) -> None:
    shown = "\n".join(text(render.summary(result, everything=True)))
    page = render.markdown(result, everything=True)
    assert not {"\x1b", "\u202e"} & {*shown, *page}
    assert "<script>" not in page and "{{x" not in page and "\n# a" not in page


def test_the_head_says_who_and_the_verdict_follows(runs: list[Run]) -> None:
    d = diff_runs(*runs[:2])
    lines = text(render.summary(d, 100))
    assert lines[0] == "a  clean         500 rows, steps 0–499, seed 42"
    assert lines[1] == "b  19-spike-001  500 rows, steps 0–499, seed 42"
    assert lines[3].startswith(f"{d.verdict:<12}{d.reason[:20]}")


def test_everything_says_more(runs: list[Run]) -> None:
    d = diff_runs(*runs[:2])
    short, whole = text(render.summary(d, 100)), text(render.summary(d, 100, everything=True))
    assert not any(line.startswith("Rolled back") for line in short)
    assert "Rolled back nothing" in whole
    assert "act_rms/embedding: 1 of 500 rows differ, first at 312" in [line.strip() for line in whole]


def test_json_is_strict_and_holds_the_verdict(result: RunsDiff | ManyRunsDiff) -> None:
    def refuse(name: str) -> object:
        raise AssertionError(name)

    raw = json.loads(render.to_json(result), parse_constant=refuse)
    assert raw.get("verdicts", [raw.get("verdict")]) == list(result.verdicts)


def test_files_are_written_and_written_again(result: RunsDiff | ManyRunsDiff, tmp_path: Path) -> None:
    out = tmp_path / "there" / "diff"
    page = render.write(result, out)
    assert page == out / "diff.md" and "](diff.png)" in page.read_text()
    assert sorted(p.name for p in out.iterdir()) == ["diff.json", "diff.md", "diff.png"]
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    (out / "mine.txt").write_text("kept")
    render.write(result, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {**first, "mine.txt": b"kept"}
    with Image.open(io.BytesIO(first["diff.png"])) as picture:
        assert picture.width == 990


@pytest.mark.parametrize("value", [1e308, -1e308, np.nan, np.inf, 1e-300])
def test_any_float_can_be_drawn(tmp_path: Path, value: float) -> None:
    loss = np.where(np.arange(60) % 7, 2.0, value)
    a, b = (open_run(write_run(tmp_path / name, {"loss": v})) for name, v in (("a", loss), ("b", np.full(60, 2.0))))
    assert render.write(diff_runs(a, b), tmp_path / "out").is_file()


def test_files_of_other_makers_stay(runs: list[Run], tmp_path: Path) -> None:
    d = diff_runs(*runs[:2])
    (tmp_path / "diff.md").write_text("mine")
    with pytest.raises(UsageError, match=r"diff\.md, which no diff wrote"):
        render.write(d, tmp_path)
    assert (tmp_path / "diff.md").read_text() == "mine" and not (tmp_path / "diff.png").exists()
    with pytest.raises(UsageError, match="is a file"):
        render.write(d, tmp_path / "diff.md")
    render.write(d, tmp_path / "ours")
    (tmp_path / "ours" / "diff.md").unlink()
    (tmp_path / "ours" / "diff.md").symlink_to(tmp_path / "diff.md")
    with pytest.raises(UsageError, match="nothing is changed"):
        render.write(d, tmp_path / "ours")
