"""The sample runs: one spiked, rolled back and finished; its clean twin; and runs of other seeds and stories."""

from __future__ import annotations

import pytest

from postmortem.diff import RunsDiff, diff_many_runs, diff_runs, render
from postmortem.sources import open_run
from tests.samples import ROOT, sample

CLEAN, SPIKED, RECOVERED = "19-clean-001", "19-spike-001", "19-spike-001-recovered"

pytestmark = pytest.mark.heavy


def diff(a: str, b: str) -> RunsDiff:
    return diff_runs(open_run(sample(a)), open_run(sample(b)))


def test_the_recovered_run_tells_where_it_comes_from() -> None:
    d = diff(SPIKED, RECOVERED)
    assert d.top_lines == ("b resumed from step 300 of a, skipping batches [312, 512): loss_spike_sustained",)
    assert d.verdict == "recovered"
    assert d.divergence is not None and (d.divergence.step, d.divergence.kind) == (312, "other_batch")
    assert d.divergence.state == "equal"
    assert [(s.first_step, s.last_step, s.peak_step) for s in d.b.discarded] == [(300, 361, 312)]
    assert (d.b.lost.steps, d.b.lost.skipped_batches) == (62, 200)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (CLEAN, CLEAN, "identical"),
        (CLEAN, RECOVERED, "recovered"),
        (CLEAN, SPIKED, "transient"),
        ("clean-001", CLEAN, "equivalent"),
        ("clean-001", "20-run-002", "transient"),
        ("clean-001", "20-run-004", "different"),
    ],
)
def test_verdicts(a: str, b: str, verdict: str) -> None:
    d = diff(a, b)
    assert d.verdict == verdict, d.reason
    assert any("independent" in line for line in d.top_lines) == (b == "20-run-002")


def test_the_spiked_run_parts_at_the_batch_of_the_spike_and_meets_its_twin_again() -> None:
    d = diff(CLEAN, SPIKED)
    assert d.divergence is not None and (d.divergence.step, d.divergence.kind) == (312, "other_batch")
    gap = d.gap()
    assert gap is not None and gap.largest_at == (312, 312) and abs(gap.final) < 0.01


def test_three_in_a_table() -> None:
    found = diff_many_runs([open_run(sample(name)) for name in (CLEAN, SPIKED, RECOVERED)])
    assert found.verdicts == ("transient", "recovered")
    lines = ["".join(span.text for span in line).rstrip() for line in render.summary(found, 80)]
    assert lines[2].split() == ["b", "verdict", "divergence", "incidents", "area", "end", "lost"]
    assert lines[3].split()[:5] == [SPIKED, "transient", "312", "other", "batch"]


def test_the_guide_shows_what_is_printed() -> None:
    guide = (ROOT / "docs" / "runs-diff.md").read_text()
    shown = guide.split("```console\n")[1].split("\n…")[0].splitlines()[1:]
    printed = ["".join(span.text for span in line).rstrip() for line in render.summary(diff(SPIKED, RECOVERED), 100)]
    assert shown == printed[: len(shown)]
