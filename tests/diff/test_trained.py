"""Every verdict, and every kind of divergence, on pairs that were really trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from postmortem.arithmetic import _processor_supports
from postmortem.diff import RunsDiff, diff_many_runs, diff_runs, render
from postmortem.sources import open_run
from tests.diff.makers import BAD, FROM, HURT, NUDGED, SHORT, STEPS, WRONG
from tests.diff.mirror import comparable

pytestmark = [pytest.mark.bits, pytest.mark.heavy]
Trained = dict[str, Path]


def against_clean(trained: Trained, name: str) -> RunsDiff:
    return diff_runs(open_run(trained["clean"]), open_run(trained[name]))


@pytest.mark.parametrize(
    ("name", "verdict", "step", "kind"),
    [
        ("clean", "identical", None, None),
        ("resumed", "identical", None, None),
        ("nudged", "equivalent", NUDGED, "other_arithmetic"),
        ("odd", "transient", WRONG, "log_only"),
        ("rolled", "recovered", BAD[0], "other_batch"),
        ("hurt", "lingering", HURT, "other_state"),
        ("slow", "different", 0, "other_config"),
        ("short", "prefix", None, None),
    ],
)
def test_verdict_and_divergence(trained: Trained, name: str, verdict: str, step: int | None, kind: str | None) -> None:
    d = against_clean(trained, name)
    assert d.verdict == verdict, d.reason
    found = d.divergence
    assert (found.step, found.kind) == (step, kind) if found else (step, kind) == (None, None)


def test_the_rollback_is_the_first_thing_told(trained: Trained) -> None:
    d = against_clean(trained, "rolled")
    first, last = BAD
    assert d.top_lines == (
        f"b rolled back from step {last + 6} to step {FROM}, skipping batches [{first}, {last}): loss_spike_sustained",
    )
    assert d.b.skipped == (BAD,) and d.b.skipped_at == (BAD,)
    (stretch,) = d.b.discarded
    assert (stretch.first_step, stretch.last_step, stretch.rows) == (FROM, last + 6, last + 7 - FROM)
    assert stretch.peak_step in range(first, last) and stretch.peak is not None and stretch.peak > 6
    assert [(i.kind, i.discarded) for i in d.b.incidents] == [("loss_spike", True)] and not d.a.incidents
    lost = d.b.lost
    assert (lost.steps, lost.tokens) == (last + 7 - FROM, (last + 7 - FROM) * 94)
    assert (lost.skipped_batches, lost.skipped_tokens) == (4, 376)
    assert lost.device_hours is not None and 0 < lost.device_hours < 0.1
    assert [(r.what, r.from_step, r.back_step) for r in d.b.recoveries] == [("rollback", FROM, FROM)]


def test_after_a_skip_batches_are_matched_at_other_steps(trained: Trained) -> None:
    found = against_clean(trained, "rolled").alignment
    first, last = BAD
    assert found is not None and found.by == "batch_hash"
    assert [(s.a_first, s.a_last, s.b_first, s.b_last) for s in found.stretches] == [
        (0, first - 1, 0, first - 1),
        (last, STEPS - 1, first, STEPS - 1 - (last - first)),
    ]
    assert found.only_a == (BAD,) and found.only_b == ((STEPS, STEPS + last - first),)
    assert found.moved == STEPS - last and found.first_other == (last, first)


def test_the_spike_itself_is_only_in_one(trained: Trained) -> None:
    d = against_clean(trained, "spiked")
    assert d.divergence is not None and (d.divergence.step, d.divergence.batch) == (BAD[0], "other")
    assert d.divergence.state == "equal" and {s.group for s in d.settings} == {"config"}
    gap = d.gap()
    assert gap is not None and gap.largest > 3 and BAD[0] <= gap.largest_at[0] < BAD[1]
    assert d.verdict in ("transient", "lingering")  # four steps of garbage cost the rest of a short run a little
    assert [(r.what, r.from_step) for r in d.b.recoveries] == [("incident", BAD[0])]


def test_a_lasting_step_is_measured_on_the_same_batches(trained: Trained) -> None:
    d = against_clean(trained, "hurt")
    gap = d.gap()
    assert gap is not None and gap.final > gap.noise.end > 0 and gap.noise.end < 0.1
    assert d.divergence is not None and (d.divergence.batch, d.divergence.state) == ("same", "equal")


def test_a_resume_is_told_and_its_stretch_set_apart(trained: Trained) -> None:
    d = against_clean(trained, "resumed")
    assert d.top_lines == (f"b resumed from step {FROM}",)
    assert [(s.first_step, s.last_step) for s in d.b.discarded] == [(FROM, FROM + 19)]
    assert d.reason == f"the same bits in {len(d.columns)} common columns and {STEPS} common steps"


def test_the_shorter_of_equal_runs_is_named(trained: Trained) -> None:
    d = against_clean(trained, "short")
    assert d.top_lines == (f"a ends at step {STEPS - 1}, b at {SHORT - 1}",)
    assert d.reason.startswith(f"b is the first {SHORT} rows of a: {d.top_lines[0]}") and "the same bits in" in d.reason


def test_a_replay_is_compared_as_far_as_it_goes(trained: Trained, tmp_path: Path) -> None:
    replay = tmp_path / "replay"
    shutil.copytree(trained["short"], replay)
    manifest = json.loads((replay / "run.json").read_text())
    manifest |= {"id": "replay", "lineage": {"run": "clean", "from_step": FROM, "attempt": 1, "parent": "/elsewhere"}}
    (replay / "run.json").write_text(json.dumps(manifest))
    d = diff_runs(open_run(trained["clean"]), open_run(replay))
    assert d.verdict == "identical"
    assert d.top_lines == (f"b resumed from step {FROM} of a", f"a ends at step {STEPS - 1}, b at {SHORT - 1}")


@pytest.mark.processes
def test_other_arithmetic_is_named(trained: Trained, tmp_path: Path) -> None:
    """The same program on other instructions of this CPU, where there is a choice."""
    code = "import sys\nfrom pathlib import Path\nfrom tests.diff.makers import SHORT, config, train\n"
    code += "train(Path(sys.argv[1]), config(), SHORT)"
    own = open_run(trained["short"]).manifest.environment["cpu_capability"]
    other = "avx2" if own == "DEFAULT" and _processor_supports("AVX2") else "default"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": other, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "plain")], check=True, env=environment)
    d = diff_runs(open_run(trained["short"]), open_run(tmp_path / "plain"))
    if not any(s.key == "cpu_capability" for s in d.settings):
        pytest.skip("this CPU has one kind of arithmetic")
    assert d.verdict == "equivalent" and d.divergence is not None
    assert d.divergence.kind == "other_arithmetic" and "cpu_capability" in d.divergence.text


@pytest.mark.parametrize("name", ["clean", "spiked", "rolled", "nudged", "hurt", "slow", "odd", "short"])
def test_swapping_the_runs_mirrors_the_report(trained: Trained, name: str) -> None:
    a, b = open_run(trained["spiked"]), open_run(trained[name])
    there, back = diff_runs(a, b), diff_runs(b, a)
    assert there.verdict == back.verdict
    left, right = (comparable(json.loads(render.to_json(d)), swap=d is there) for d in (there, back))
    for gap in (*left["gaps"], *right["gaps"]):
        gap["level"].pop("step")  # a batch has a step in each run, and a picture is drawn over those of the first
    assert left == right


def test_three_runs_are_a_table(trained: Trained) -> None:
    found = diff_many_runs([open_run(trained[name]) for name in ("clean", "spiked", "rolled", "resumed")])
    assert found.verdicts[1:] == ("recovered", "identical")
    rows = ["".join(span.text for span in line).split() for line in render.summary(found, 100)]
    rolled = next(row for row in rows if row[:1] == ["rolled"])
    assert rolled[1:5] == ["recovered", str(BAD[0]), "other", "batch"] and rolled[-1] == str(BAD[1] + 7 - FROM)
