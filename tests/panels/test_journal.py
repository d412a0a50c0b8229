"""What the journal says of the time before an incident is evidence, and an incomplete resume is one cause."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.case import RESUME_ROWS
from postmortem.panels._journal import fading
from tests.journals import AT, Journal, event, observed, score, spike, worst
from tests.makers import STEPS, healthy, healthy_batches, write_run


@pytest.mark.parametrize(
    ("keys", "slug", "favored", "weakened"),
    [
        (event("config_change", key="optimizer.lr", old=3e-4, new=3e-3), "state.rate_raised", "lr_too_high", "benign"),
        (event("config_change", key="lr", old=1, new=2), "state.rate_raised", "lr_discontinuity", "benign"),
        (
            event("config_change", key="learningRate", old=2, new=1),
            "state.rate_lowered",
            "lr_discontinuity",
            "lr_too_high",
        ),
        (event("lr_reduction", factor=0.5), "state.rate_lowered", "lr_discontinuity", "lr_too_high"),
        (event("config_change", key="warmup_steps", old=9, new=1), "state.schedule_changed", "lr_discontinuity", ""),
        (event("data_change", old="v1", new="v2"), "state.data_changed", "garbage_data", "bit_flip"),
        (
            event("config_change", key="data.path", old="a", new="b"),
            "state.data_changed",
            "garbage_data",
            "lr_too_high",
        ),
        (event("config_change", key="dtype", old="bf16", new="fp16"), "state.half_precision", "fp16_overflow", ""),
        (event("nonfinite_parameters", names=["w"]), "state.nonfinite_parameters", "nan_propagation", "benign"),
        (event("recording_degraded", lost_rows=2), "state.rows_lost", "logging_artifact", ""),
    ],
)
def test_an_event_before_the_onset_is_evidence(
    keys: dict[str, Any], slug: str, favored: str, weakened: str, tmp_path: Path
) -> None:
    changed, plain = spike(tmp_path / "changed", [keys]), spike(tmp_path / "plain")
    assert slug in observed(changed) and slug not in observed(plain)
    assert score(changed, favored) > score(plain, favored)
    assert not weakened or score(changed, weakened) < score(plain, weakened)


@pytest.mark.parametrize("key", ["weight_decay", "data_parallel.size", "num_workers", "model.max_norm"])
def test_another_setting_favors_no_cause_and_speaks_against_a_coincidence(key: str, tmp_path: Path) -> None:
    changed, plain = (
        spike(tmp_path / "changed", [event("config_change", key=key, old=1, new=2)]),
        spike(tmp_path / "plain"),
    )
    assert f"config {key} changed from 1 to 2, 2 steps before the onset" in observed(changed)["state.config_change"]
    before = {h.cause: h.score for h in worst(plain).hypotheses}
    assert all(h.score <= before[h.cause] for h in worst(changed).hypotheses if h.cause in before)
    for cause in ("bit_flip", "benign", "long_tail_tokens"):
        assert score(changed, cause) < score(plain, cause)


@pytest.mark.parametrize(
    ("keys", "slug"),
    [
        (event("config_change", key="data.batch_size", old=32, new=8), "state.batch_size_changed"),
        (event("config_change", key="trainer.accumulate_grad_batches", old=4, new=1), "state.batch_size_changed"),
        (event("config_change", key="seqLen", old=512, new=2048), "state.batch_size_changed"),
        (event("resume", AT, from_step=AT, world_size=8, saved_world_size=16), "state.batch_size_changed"),
        (event("config_change", key="max_grad_norm", old=1, new=None), "state.clipping_changed"),
        (event("environment_change", changed={"torch": ["2.8", "2.9"]}), "state.environment_change"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_changed_has_its_own_slug(keys: dict[str, Any], slug: str, tmp_path: Path) -> None:
    changed = spike(tmp_path / "run", [keys])
    assert slug in observed(changed)
    assert score(changed, "benign") < score(spike(tmp_path / "plain"), "benign")


def test_a_resume_on_as_many_ranks_changed_no_batch_size(tmp_path: Path) -> None:
    resume = event("resume", AT, from_step=AT, world_size=8, saved_world_size=8)
    assert "state.batch_size_changed" not in observed(spike(tmp_path / "run", [resume]))


def test_many_changes_count_once_and_a_change_long_before_counts_less(tmp_path: Path) -> None:
    raised: dict[str, Any] = {"key": "lr", "old": 1, "new": 2}
    once = score(spike(tmp_path / "once", [event("config_change", **raised)]), "lr_too_high")
    many = [event("config_change", **raised)] * 50
    assert score(spike(tmp_path / "many", many), "lr_too_high") == once
    none = score(spike(tmp_path / "plain"), "lr_too_high")
    early = spike(tmp_path / "early", [event("config_change", 100, **raised)])
    assert none < score(early, "lr_too_high") < once
    assert observed(early)["state.rate_raised"].endswith("changed from 1 to 2, 250 steps before the onset")
    assert score(spike(tmp_path / "after", [event("config_change", AT + 5, **raised)]), "lr_too_high") == none


@given(st.floats(0, 1e9))
def test_the_weight_of_a_change_halves_with_each_doubling_of_its_distance(rows: float) -> None:
    assert 0 < fading(rows) <= 1 and (rows > RESUME_ROWS or fading(rows) == 1)
    assert fading(2 * max(rows, RESUME_ROWS)) == pytest.approx(fading(max(rows, RESUME_ROWS)) / 2)


def test_the_latest_of_more_changes_than_are_read_is_the_one_that_counts(tmp_path: Path) -> None:
    journal = [event("config_change", 1 + i // 10, key="note", old=i, new=i + 1) for i in range(1_100)]
    latest = event("config_change", AT - 2, key="weight_decay", old=0.1, new=0.0)
    text = observed(spike(tmp_path / "run", [*journal, latest]))["state.config_change"]
    assert "weight_decay changed from 0.1 to 0" in text and text.endswith("the last one 2 steps before the onset")


def test_what_a_later_attempt_did_explains_no_incident_before_it(tmp_path: Path) -> None:
    """The rollback returns to a step shortly before the onset; the spike was there first."""
    journal = [
        event("rollback", None, from_step=399, to_step=345, attempt=1),
        event("resume", 345, from_step=345, missing=["optimizer"]),
        event("data_change", 346, new="v2"),
    ]
    first, second = healthy(400), healthy()
    first["loss"][AT : AT + 12] += 4.0
    joined = {name: np.concatenate([first[name], second[name][345:]]) for name in first}
    steps, attempt = np.r_[0:400, 345:STEPS], np.r_[np.zeros(400, int), np.ones(STEPS - 345, int)]
    run = write_run(tmp_path / "run", joined, steps=steps, attempt=attempt, journal=journal)
    assert worst(run).discarded and set(observed(run)) == {"state.no_resume"}


def test_an_event_without_a_step_took_effect_with_its_attempt(tmp_path: Path) -> None:
    journal = [event("reopen", None, attempt=1), event("config_change", None, key="lr", old=1, new=2)]
    columns = healthy()
    columns["loss"][AT : AT + 12] += 4.0
    attempt = (np.arange(STEPS) >= AT - 3).astype(int)
    near = write_run(tmp_path / "near", columns, attempt=attempt, journal=journal)
    assert "state.rate_raised" in observed(near)
    mid = [*journal[:1], event("checkpoint", AT - 1, path="x"), journal[1]]  # a step that nobody knows
    assert "state.rate_raised" not in observed(write_run(tmp_path / "mid", columns, attempt=attempt, journal=mid))


@pytest.mark.parametrize(
    "before",
    [event("oom"), event("incident", kind="oom"), event("kill", reason="preempted"), event("run_end", status="killed")],
    ids=["oom", "incident", "kill", "run_end"],
)
def test_an_end_explains_the_resume_after_it(before: dict[str, Any], tmp_path: Path) -> None:
    resume = event("resume", AT - 1, from_step=AT - 1, missing=[])
    text = observed(spike(tmp_path / "run", [before, resume]))["state.full_resume"]
    assert re.search(r"before that, (out of memory|the training (was killed|ended: killed)).* at step 348", text)
    calm = [before, event("run_end", AT, status="completed"), resume]
    assert "before that" not in observed(spike(tmp_path / "calm", calm))["state.full_resume"]


def _resumed(missing: list[str], **keys: Any) -> list[dict[str, Any]]:
    return [event("resume", 300, from_step=300, missing=missing, **keys)]


def _reset_run(root: Path, journal: Journal) -> Path:
    columns = healthy()
    columns["adam_m_norm"][300:320] *= np.linspace(0.1, 1, 20)
    columns["adam_v_norm"][300:] = 1e-3 * np.arange(STEPS - 300) / 200
    columns["optimizer_step"][300:] -= 300
    columns["update_rms"][300:310] = 1.0
    columns["loss"][301:330] += 0.6
    columns["lr"][300:] = 2e-3
    return write_run(root, columns, batches=healthy_batches(), journal=journal)


def test_a_resume_without_three_pieces_is_one_cause(tmp_path: Path) -> None:
    found = worst(_reset_run(tmp_path / "run", _resumed(["optimizer", "scheduler", "rng"])))
    assert found.verdict == "supported" and found.hypotheses[0].cause == "optimizer_reset"
    assert found.hypotheses[0].title == "Incomplete resume"
    assert (
        "it came back without optimizer, scheduler, rng" in found.root_cause
        and "schedule breaks off" in found.root_cause
    )
    others = {h.cause: h.strength for h in found.hypotheses[1:]}
    assert set(others.values()) == {"weak"} and next(iter(others)) != "lr_discontinuity"


def test_a_resume_that_lost_the_schedule_only_is_found_though_the_moments_came_back(tmp_path: Path) -> None:
    columns = healthy()
    columns["lr"][300:] = 3e-3
    columns["loss"][301:330] += 0.6
    columns["grad_norm"][301:330] *= 3
    run = write_run(tmp_path / "run", columns, batches=healthy_batches(), journal=_resumed(["lr_scheduler"]))
    found = worst(run)
    assert (found.verdict, found.hypotheses[0].cause) == ("supported", "optimizer_reset")
    assert "moments.restored" in {e.observation for e in found.evidence}
    assert [str(change) for change in found.remedy or ()] == ["lr-smooth=300"]
    silent = write_run(tmp_path / "silent", columns, batches=healthy_batches(), journal=_resumed([]))
    assert worst(silent).hypotheses[0].cause == "lr_discontinuity"


@pytest.mark.parametrize(
    ("keys", "lost"),
    [
        ({"missing": ["optimizer"]}, ["optimizer"]),
        ({"missing": [], "optimizer_reset": True}, ["optimizer"]),
        ({"restored": ["model"], "contents": "parameters"}, ["optimizer"]),
        ({"restored": ["model"]}, ["optimizer"]),
        ({"missing": ["train_loader", "rng"]}, ["train_loader", "rng"]),
        ({"restored": ["model", "optimizer"]}, None),
        ({"missing": []}, []),
        ({}, None),
    ],
)
def test_what_a_resume_lost(keys: dict[str, Any], lost: list[str] | None, tmp_path: Path) -> None:
    seen = observed(spike(tmp_path / "run", [event("resume", AT - 1, from_step=AT - 1, **keys)]))
    slug = "state.incomplete_resume" if lost else "state.resumed" if lost is None else "state.full_resume"
    assert slug in seen and {s for s in seen if "resume" in s} == {slug}
    assert not lost or f"not restored: {', '.join(lost)}" in seen[slug]


def test_the_journal_of_an_incomplete_resume_is_enough_without_the_moments(tmp_path: Path) -> None:
    columns = {name: values for name, values in healthy().items() if name in ("loss", "lr", "grad_norm")}
    columns["loss"][301:330] += 0.6
    columns["grad_norm"][301:330] *= 4
    lost = write_run(tmp_path / "lost", columns, journal=_resumed(["optimizer"]))
    whole = write_run(tmp_path / "whole", columns, journal=_resumed([]))
    assert worst(lost).hypotheses[0].cause == "optimizer_reset"
    assert score(whole, "optimizer_reset") < -3
