"""The lab's program keeps the contract: driven, saved, restored, skipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from postmortem.lab.config import ENTRY_POINT, default_config
from postmortem.lab.program import LabProgram, build
from postmortem.program import Program, next_index, resolve, select

pytestmark = pytest.mark.bits


def drive(program: Program, until: int, skip: tuple[tuple[int, int], ...] = ()) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    while program.updates < until:
        measured = program.step(program.batch(next_index(program.position, skip)))
        rows.append((measured.metrics["loss"], measured.metrics["param_hash"], measured.batch["batch_index"]))
    return rows


def test_entry_point_builds_a_program() -> None:
    program = resolve(ENTRY_POINT)(default_config(0, 100))
    assert isinstance(program, LabProgram)
    assert isinstance(program, Program)
    assert sum(tensor.numel() for tensor in program.state_dict()["model"].values()) <= 50_000


def test_two_builds_are_equal_bit_for_bit() -> None:
    assert drive(build(default_config(1, 100)), 6) == drive(build(default_config(1, 100)), 6)
    assert drive(build(default_config(1, 100)), 2) != drive(build(default_config(2, 100)), 2)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_state_carries_everything_that_the_next_step_depends_on(precision: str) -> None:
    config = default_config(1, 100) | {"precision": precision}
    straight = build(config)
    drive(straight, 5)
    state = straight.state_dict()
    expected = drive(straight, 9)
    resumed = build(config)
    resumed.load_state_dict(state)
    assert drive(resumed, 9) == expected


@pytest.mark.parametrize("section", ["model", "optimizer", "schedule", "loader", "rng"])
def test_every_section_matters(section: str) -> None:
    config = default_config(1, 100)
    straight = build(config)
    drive(straight, 5)
    state = straight.state_dict()
    expected = drive(straight, 7)
    resumed = build(config)
    resumed.load_state_dict(select(state, [name for name in state if name != section]))
    until = 7 if resumed.updates == 5 else resumed.updates + 2
    assert drive(resumed, until) != expected


def test_a_saved_state_is_not_changed_by_later_steps() -> None:
    program = build(default_config(1, 100))
    state = program.state_dict()
    before = state["model"]["head"].clone()
    drive(program, 3)
    assert torch.equal(state["model"]["head"], before)


def test_a_skip_parts_step_and_batch_index_for_good() -> None:
    rows = drive(build(default_config(1, 100)), 6, skip=((2, 4),))
    assert [index for _, _, index in rows] == [0, 1, 4, 5, 6, 7]


def test_a_step_measures_the_panels() -> None:
    program = build(default_config(1, 100))
    measured = program.step(program.batch(0))
    expected = {"loss", "lr", "grad_norm", "grad_norm_clipped", "clip_threshold", "grad_norm/embed", "act_rms/layer0"}
    expected |= {"act_max/layer1", "param_norm", "param_norm/head", "update_rms", "dead_frac/layer0", "token_loss_p50"}
    expected |= {"token_loss_max", "adam_m_norm", "adam_v_norm", "optimizer_step", "g2_over_v", "skipped", "log_z"}
    expected |= {"nonfinite_count", "max_attention_logit", "attention_entropy/layer1", "max_output_logit", "param_hash"}
    assert expected <= set(measured.metrics)
    assert measured.metrics["loss"] == pytest.approx(5.5, abs=0.5)
    batch = measured.batch
    losses = batch["worst_token_losses"]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == measured.metrics["token_loss_max"]
    row, col = batch["worst_token_rows"][0], batch["worst_token_cols"][0]
    assert batch["token_ids"][row][col + 1] == batch["worst_token_ids"][0]


def test_update_rms_is_about_one_at_the_first_step() -> None:
    program = build(default_config(1, 100))
    assert program.step(program.batch(0)).metrics["update_rms"] == pytest.approx(1, abs=0.15)
