"""Resumes, rollbacks and skipped batches: from journals, run.json and rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.diff import RunsDiff, diff_runs
from postmortem.diff.lineage import skipped_windows
from postmortem.run import Run
from postmortem.run.event_meaning import parse_windows
from postmortem.sources import open_run
from tests.makers import noise, write_run

ROLLBACK: dict[str, Any] = {
    "event": "rollback", "step": 300, "from_step": 431, "to_step": 300, "skip": [[312, 512]], "attempt": 1,
    "reason": "loss_spike_sustained", "changes": ["skip batches [312, 512)"],
}  # fmt: skip
RESUME: dict[str, Any] = {"event": "resume", "step": 300, "from_step": 300, "missing": [], "changed": {}}
LINEAGE: dict[str, Any] = {
    "run": "a", "from_step": 300, "attempt": 1, "skip": [[312, 512]], "changes": ["skip batches [312, 512)"],
    "parent": "../../etc",
}  # fmt: skip


def pair(tmp_path: Path, journal: list[dict[str, Any]], lineage: dict[str, Any] | None = None, **more: Any) -> RunsDiff:
    """`a`, 500 plain steps, against `b`, which has done steps 300–431 twice."""
    a = open_run(write_run(tmp_path / "a", {"loss": 2 + noise(0.02)}))
    step = np.concatenate((np.arange(432), np.arange(300, 500)))
    attempt = np.concatenate((np.zeros(432, int), np.ones(200, int)))
    rows = {"loss": np.concatenate(((2 + noise(0.02))[:432], (2 + noise(0.02, seed=7))[300:]))}
    b = write_run(
        tmp_path / "b", rows, steps=step, attempt=attempt, journal=journal, manifest={"lineage": lineage, **more}
    )
    return diff_runs(a, open_run(b))


def test_a_replay_goes_on_from_the_other_run(tmp_path: Path) -> None:
    d = pair(tmp_path, [ROLLBACK, RESUME], LINEAGE)
    assert d.top_lines == ("b resumed from step 300 of a, skipping batches [312, 512): loss_spike_sustained",)
    assert d.verdict == "recovered" and d.b.lost.skipped_batches == 200


def test_a_rollback_within_one_run(tmp_path: Path) -> None:
    d = pair(tmp_path, [{**ROLLBACK, "changes": ["skip=312:512", "lr-scale=0.5"]}, RESUME])
    assert d.top_lines == (
        "b rolled back from step 431 to step 300, skipping batches [312, 512), with lr-scale=0.5: loss_spike_sustained",
    )


def test_a_resume_without_its_optimizer_and_with_another_rate(tmp_path: Path) -> None:
    changed = {"optimizer.betas": [[0.9, 0.95], [0.9, 0.999]]}
    d = pair(tmp_path, [{**RESUME, "missing": ["optimizer"], "changed": changed}])
    assert d.top_lines == (
        "b resumed from step 300, without its optimizer; optimizer.betas [0.9, 0.999] instead of [0.9, 0.95]",
    )
    assert d.divergence is not None and (d.divergence.step, d.divergence.kind) == (300, "other_state")


def test_rows_alone_show_an_attempt(tmp_path: Path) -> None:
    assert pair(tmp_path, []).top_lines == ("b began attempt 1 at step 300; no event says why",)


def test_a_parent_that_is_not_here_is_named(tmp_path: Path) -> None:
    d = pair(tmp_path, [], {"parent": "elsewhere", "from_step": 300})
    assert d.top_lines == ("b resumed from step 300 of run elsewhere",)


def test_lineage_alone_tells_as_much(tmp_path: Path) -> None:
    d = pair(tmp_path, [], {**LINEAGE, "reason": "spike"})
    assert d.top_lines == ("b resumed from step 300 of a, skipping batches [312, 512): spike",)


def test_what_both_went_through_is_told_once_and_is_nobodys_own(tmp_path: Path) -> None:
    d = pair(tmp_path, [ROLLBACK, RESUME])
    again = diff_runs(open_run(tmp_path / "b"), open_run(tmp_path / "b"))
    assert d.top_lines and again.top_lines == (d.top_lines[0].replace("b rolled", "both rolled"),)
    assert again.verdict == "identical"


def test_many_resumes_are_counted(tmp_path: Path) -> None:
    d = pair(tmp_path, [{**RESUME, "from_step": 10 * n, "step": 10 * n} for n in range(1, 10)])
    assert len(d.top_lines) == 5 and d.top_lines[-1].startswith("b: ") and "more resumes" in d.top_lines[-1]


@pytest.mark.parametrize(
    "broken",
    [
        {"event": "rollback", "to_step": "x"},
        {"event": "rollback", "to_step": 300, "skip": 7, "changes": 3, "reason": []},
        {"event": "resume", "from_step": 300, "missing": "all", "changed": [1]},
        {"event": "environment_change", "changed": {"torch": "2.8"}},
        {"event": "config_change"},
    ],
)
def test_events_of_another_form_are_read_around(tmp_path: Path, broken: dict[str, Any]) -> None:
    assert pair(tmp_path, [{"step": 1, **broken}]).verdict


def test_settings_that_changed_on_the_way(tmp_path: Path) -> None:
    d = pair(
        tmp_path,
        [
            {"event": "config_change", "step": 300, "key": "lr", "old": 1, "new": 2},
            {"event": "environment_change", "step": 300, "changed": {"environment.torch": ["2.8", "2.9"]}},
        ],
    )
    assert [(m.step, m.key, m.old, m.new) for m in d.b.moved] == [
        (300, "lr", 1, 2),
        (300, "environment.torch", "2.8", "2.9"),
    ]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ([[312, 512], [600, 601]], ((312, 512), (600, 601))),
        ([312, 512], ((312, 512),)),
        ([512, 312], ()),
        ("312", ()),
        ([[1, None], [2]], ()),
    ],
)
def test_windows(value: object, read: object) -> None:
    assert parse_windows(value) == read


def indexed(root: Path, index: list[int]) -> Run:
    return open_run(write_run(root, {"loss": np.ones(len(index))}, batches={"batch_index": index}))


def test_jumps_of_the_index_are_skips_and_a_stride_is_not(tmp_path: Path) -> None:
    assert skipped_windows(indexed(tmp_path / "a", [0, 1, 2, 8, 9, 10]), ()) == ((3, 8),)
    assert skipped_windows(indexed(tmp_path / "b", [0, 4, 8, 12]), ()) == ()
    assert skipped_windows(indexed(tmp_path / "c", [0, 1, 2, 0, 1, 2]), ()) == ()
