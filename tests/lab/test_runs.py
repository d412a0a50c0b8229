"""Runs made by the lab: what lies in them, what each fault does, and that nothing inside names it."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from postmortem import lab
from postmortem.errors import MissingExtra, UsageError
from postmortem.lab.fault_plan import make_spec
from postmortem.lab.faults import all_faults, find_fault
from postmortem.lab.program import build
from postmortem.lab.run_equality import differences
from postmortem.program import next_index
from postmortem.sources import open_run
from tests.broken import passed_by_itself

pytestmark = [pytest.mark.bits, pytest.mark.heavy]
STEPS, AT = 60, 30
SLUGS = [fault.slug for fault in all_faults()]


def make(folder: Path, fault: str, seed: int = 1, **wanted: Any) -> Path:
    placeable = next(known.placeable for known in all_faults() if known.slug == fault)
    return lab.make_run(
        folder / "out", fault=fault, seed=seed, at=AT if placeable else None, steps=STEPS, checkpoint_every=20, **wanted
    )


def column(out: Path, name: str) -> dict[int, float]:
    series = open_run(out).series(name)
    assert series is not None
    return dict(zip(series.step.tolist(), series.value.tolist(), strict=True))


def truth(out: Path) -> dict[str, Any]:
    return json.loads(out.with_name("out.truth.json").read_text("utf-8"))


def test_listing_the_faults_imports_no_torch() -> None:
    code = "import sys; from postmortem.lab import list_faults; list_faults(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {"none", "long_tail_tokens", "bit_flip", "logging_artifact"} <= set(lab.list_faults())


@pytest.mark.parametrize("slug", SLUGS)
def test_every_fault_makes_a_run_that_does_not_name_it(tmp_path: Path, slug: str) -> None:
    out = make(tmp_path, slug)
    assert truth(out)["fault"] == slug
    run = open_run(out)
    assert run.row_steps.tolist() == list(range(STEPS))
    assert passed_by_itself(run) == []
    words = [
        word for word in slug.split("_") if word not in ("none", "lr", "high", "too", "data", "batch", "optimizer")
    ]
    for file in ("run.json", "journal.jsonl"):
        text = (out / file).read_text("utf-8").lower()
        assert slug not in text
        assert not [word for word in words if word in text and word not in ("tokens", "labels", "fp16")]
    assert not any(slug in str(path.relative_to(tmp_path / "out")) for path in out.rglob("*"))


@pytest.mark.parametrize("slug", ["none", "optimizer_reset", "bit_flip"])
def test_the_same_order_gives_the_same_run(tmp_path: Path, slug: str) -> None:
    (tmp_path / "b").mkdir()
    assert differences(make(tmp_path, slug), make(tmp_path / "b", slug)) == []


def test_another_seed_is_seen_as_a_difference(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    found = differences(make(tmp_path, "none", 1), make(tmp_path / "b", "none", 2))
    assert any("column loss differs, first at step 0" in line for line in found)


def test_a_checkpoint_goes_on_as_the_run_did(tmp_path: Path) -> None:
    from postmortem.checkpoint.load import load_checkpoint

    out = make(tmp_path, "none", 3)
    program = build(json.loads((out / "run.json").read_text("utf-8"))["config"])
    program.load_state_dict(load_checkpoint(out / "rollback" / "step-00000040.dcp"))
    losses = column(out, "loss")
    hashes = open_run(out).labels("param_hash")
    assert hashes is not None
    while program.updates < STEPS:
        step = program.updates
        metrics = program.step(program.batch(next_index(program.position))).metrics
        assert metrics["loss"] == losses[step]
        assert metrics["param_hash"] == hashes.value[step]


def test_checkpoints_are_kept_as_asked(tmp_path: Path) -> None:
    out = make(tmp_path, "none", keep_checkpoints=(20, 35))
    assert sorted(path.name for path in (out / "rollback").iterdir()) == ["step-00000020.dcp", "step-00000035.dcp"]
    out = make(tmp_path, "none", keep_checkpoints=1)
    assert [checkpoint.step for checkpoint in open_run(out).checkpoints] == [40]


def test_long_tail_is_a_jump_on_few_tokens(tmp_path: Path) -> None:
    out = make(tmp_path, "long_tail_tokens")
    rare = column(out, "rare_tokens")
    assert rare[AT] > 2 * max(value for step, value in rare.items() if step != AT)


def test_garbage_comes_from_one_source_on_end(tmp_path: Path) -> None:
    out = make(tmp_path, "garbage_data")
    labels = open_run(out).labels("source")
    assert labels is not None
    first, last = truth(out)["batches"]
    assert len(set(labels.value[first:last])) == 1
    assert last - first >= 5


def test_repeated_batch_repeats_its_hash(tmp_path: Path) -> None:
    out = make(tmp_path, "repeated_batch")
    labels = open_run(out).labels("batch_hash")
    assert labels is not None
    first, last = truth(out)["batches"]
    assert len(set(labels.value[first : min(last, STEPS)])) == 1
    assert labels.value[first] == labels.value[truth(out)["onset_step"]]


def test_lr_jumps_at_the_onset(tmp_path: Path) -> None:
    rates = column(make(tmp_path, "lr_discontinuity"), "lr")
    assert rates[AT] > 7 * rates[AT - 1]


def test_reset_drops_the_moments_in_a_second_attempt(tmp_path: Path) -> None:
    out = make(tmp_path, "optimizer_reset", 0)
    moments = column(out, "adam_v_norm")
    assert moments[AT] < 0.5 * moments[AT - 1]
    resumes = [event for event in open_run(out).journal if event.event == "resume"]
    assert [event.step for event in resumes] == [AT]
    assert "optimizer" not in resumes[0].keys["restored"]


@pytest.mark.parametrize("seed", [1, 2])
def test_empty_labels_give_nan_from_nothing_over_nothing(tmp_path: Path, seed: int) -> None:
    out = make(tmp_path, "empty_labels", seed)
    losses = column(out, "loss")
    assert column(out, "valid_labels")[AT] == 0
    assert math.isfinite(losses[AT - 1])
    assert math.isnan(losses[AT])
    assert math.isfinite(losses[AT + 1]) == truth(out)["parameters"]["update_skipped"]


def test_nan_propagation_begins_with_a_finite_loss(tmp_path: Path) -> None:
    out = make(tmp_path, "nan_propagation")
    losses, norms, labels = column(out, "loss"), column(out, "param_norm"), column(out, "valid_labels")
    assert math.isfinite(losses[AT])
    assert labels[AT] > 0
    assert math.isfinite(norms[AT - 1])
    assert math.isnan(norms[AT])
    assert all(math.isnan(losses[step]) for step in range(AT + 1, STEPS))


def test_a_run_whose_numbers_are_gone_can_be_stopped_and_resumed(tmp_path: Path) -> None:
    """The checkpoint has NaN in it, as the run that ends there has."""
    steps, at = 400, 60
    specs = (make_spec(find_fault("nan_propagation"), seed=seed, at=at, steps=steps) for seed in range(1000))
    spec = next(spec for spec in specs if spec.stop is not None and spec.stop.step > at)
    out = lab.make_run(tmp_path / "out", fault="nan_propagation", seed=spec.seed, at=at, steps=steps)
    assert spec.stop is not None and [s.first_step for s in open_run(out).segments] == [0, spec.stop.step]


def test_fp16_overflows_in_earnest_and_fp32_does_not_notice(tmp_path: Path) -> None:
    out = lab.make_run(tmp_path / "out", fault="fp16_overflow", seed=1, at=5, steps=90)
    scale, skipped = column(out, "loss_scale"), column(out, "skipped")
    onset = truth(out)["onset_step"]
    assert onset is not None
    assert skipped[onset] == 1
    assert min(scale.values()) <= scale[onset] / 4
    config = json.loads((out / "run.json").read_text("utf-8"))["config"]
    program = build(config | {"precision": "fp32"})
    while program.updates < 90:
        assert math.isfinite(float(program.step(program.batch(program.position)).metrics["grad_norm"] or 0.0))


def test_bit_flip_is_one_bit_of_one_parameter(tmp_path: Path) -> None:
    import struct

    out = make(tmp_path, "bit_flip")
    flip = truth(out)["parameters"]
    before, after = (struct.unpack("<I", struct.pack("<f", flip[key]))[0] for key in ("before", "after"))
    assert before ^ after == 1 << flip["bit"]
    assert abs(flip["after"]) > 1.5


def test_logging_artifact_leaves_the_training_alone(tmp_path: Path) -> None:
    out = make(tmp_path, "logging_artifact")
    losses, hashes = column(out, "loss"), open_run(out).labels("param_hash")
    assert hashes is not None
    program = build(json.loads((out / "run.json").read_text("utf-8"))["config"])
    other = set[int]()
    while program.updates < STEPS:
        step = program.updates
        metrics = program.step(program.batch(program.position)).metrics
        assert metrics["param_hash"] == hashes.value[step]
        if metrics["loss"] != losses[step]:
            other.add(step)
    rows = truth(out)["parameters"]["rows"]
    assert other == set(range(AT, AT + rows))


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="did not make it"):
        make(tmp_path, "none")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("fault", "wanted", "said"),
    [
        ("gremlins", {}, "there is no fault 'gremlins'"),
        ("long_tail_tokens", {"at": 5000}, "inside the run"),
        ("none", {"at": 5}, "has no step that"),
        ("none", {"steps": 3}, "at least 20"),
    ],
)
def test_orders_that_cannot_be_carried_out(tmp_path: Path, fault: str, wanted: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lab.make_run(tmp_path / "out", fault=fault, **wanted)
    assert not (tmp_path / "out").exists()


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(MissingExtra, match=r"training-postmortem\[train\]"):
        lab.make_run(tmp_path / "out")


def test_progress_is_told_after_every_step(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make(tmp_path, "none", on_progress=lambda step, steps, loss: told.append((step, steps)))
    assert told == [(step, STEPS) for step in range(STEPS)]
