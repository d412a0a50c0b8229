"""A plain loop under the contract: its bits, its state, its edits, and replays of what it recorded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from postmortem.checkpoint import Checkpointer, Policy, TrainState
from postmortem.errors import UsageError
from postmortem.frameworks import TorchLoop
from postmortem.program import Adjustable, Edit, Editable, Measurable, Program
from postmortem.program_state import differing_pieces, state_pieces
from postmortem.record import Recorder
from postmortem.record.hashing import batch_hash
from postmortem.record.state_hash import state_hash
from postmortem.training_loop import drive
from tests.frameworks.readings import hashes, numbers
from tests.frameworks.recorded import again
from tests.frameworks.torch_program import CONFIG, batch, build, loss, make

pytestmark = [pytest.mark.bits, pytest.mark.heavy]
POLICY = Policy(rollback_every=4, recovery_every=0, best_k=0)
NAMED = {"program": "tests.frameworks.torch_program:build"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps of the program, driven, recorded and saved at every fourth."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("torch") / "run"
    program = build(CONFIG)
    with (
        Recorder(path, config=CONFIG, manifest=NAMED) as recorder,
        Checkpointer(recorder, program, POLICY) as saves,
    ):
        drive(program, 12, rows=recorder, checkpointer=saves)
    return path


def test_it_is_all_that_a_replay_asks_for() -> None:
    program = build(CONFIG)
    assert isinstance(program, Program)
    assert isinstance(program, Adjustable)
    assert isinstance(program, Editable)
    assert isinstance(program, Measurable)


@pytest.mark.parametrize("micro", [1, 2])
def test_the_bits_are_those_of_the_loop_that_it_stands_for(micro: int) -> None:
    config = {**CONFIG, "micro": micro}
    program = build(config)
    rows = [program.step(program.batch(index)) for index in range(5)]
    model, optimizer, scheduler = make(config)
    for index, row in enumerate(rows):
        parts = batch(index, micro) if micro > 1 else [batch(index)]
        optimizer.zero_grad()
        values = [loss(model, part) for part in parts]
        for value in values:
            (value if micro == 1 else value / micro).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        whole = torch.cat([ids for ids, _ in parts])
        expected = {"loss": torch.stack(values).mean().item(), "grad_norm": norm.item(), "lr": rate}
        assert {name: row.metrics[name] for name in expected} == expected
        assert row.metrics["clip_threshold"] == 0.5
        assert row.batch == {"batch_hash": batch_hash(whole), "tokens": whole.numel(), "valid_labels": whole.numel()}
    assert all(torch.equal(a, b) for a, b in zip(program.model.parameters(), model.parameters(), strict=True))
    assert rows[3].metrics["param_hash"] != rows[0].metrics["param_hash"]
    assert "param_hash" not in rows[4].metrics
    program.step(program.batch(5))
    assert (
        program.step(program.batch(6)).metrics["param_hash"] == state_hash(dict(program.model.named_parameters())).hex
    )


def test_the_state_is_all_of_it_and_the_callers_own() -> None:
    program, fresh = build(CONFIG), build(CONFIG)
    for index in (0, 1, 5):
        program.step(program.batch(index))
    state = program.state_dict()
    expected = program.step(program.batch(6))
    fresh.load_state_dict(state)
    assert (fresh.updates, fresh.position) == (3, 6)
    assert differing_pieces(state_pieces(fresh.state_dict()), state_pieces(state)) == []
    assert fresh.step(fresh.batch(6)) == expected


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_measuring_leaves_no_trace(precision: str) -> None:
    program = build({**CONFIG, "precision": precision, "micro": 2})
    program.step(program.batch(0))
    before = program.state_dict()
    measured = program.measure(program.batch(1))
    assert differing_pieces(state_pieces(program.state_dict()), state_pieces(before)) == []
    assert measured == program.measure(program.batch(1))
    then = program.step(program.batch(1))
    assert measured.metrics["loss"] == then.metrics["loss"]
    assert measured.metrics["grad_norm"] == pytest.approx(then.metrics["grad_norm"], rel=1e-5)


def test_a_scaler_skips_what_overflows() -> None:
    program = build({**CONFIG, "precision": "fp16", "clip": None})
    first = program.step(program.batch(0)).metrics
    assert (first["loss_scale"], first["skipped"]) == (1024.0, 0)
    assert "clip_threshold" not in first
    with torch.no_grad():
        next(program.model.parameters()).fill_(math.inf)
    assert program.step(program.batch(1)).metrics["skipped"] == 1
    assert program.step(program.batch(2)).metrics["loss_scale"] == 512.0


def test_autocast_is_another_arithmetic() -> None:
    plain, half = build(CONFIG), build({**CONFIG, "precision": "bf16"})
    found = half.step(half.batch(0)).metrics["loss"], plain.step(plain.batch(0)).metrics["loss"]
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], rel=0.02)


def test_a_loss_may_bring_further_columns() -> None:
    model = nn.Linear(2, 1)
    program = TorchLoop(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        batch=lambda index: torch.full((3, 2), float(index)),
        loss=lambda model, x: (model(x).square().mean(), {"log_z": x.sum(), "source": "made"}),
    )
    found = program.step(program.batch(2))
    assert (found.metrics["log_z"], found.metrics["source"]) == (12.0, "made")
    assert found.batch["batch_hash"] == batch_hash(torch.full((3, 2), 2.0))
    assert program.labels(program.batch(0)) == [[], [], []]
    with pytest.raises(UsageError, match="no labels that could be masked"):
        program.edited(program.batch(0), Edit(masked_tokens=frozenset({1})))


def test_a_null_replay_is_exact_and_a_skip_passes_over(run: Path, tmp_path: Path) -> None:
    done = again(run, tmp_path / "null", 4, 12)
    assert done.exact, done.differences
    assert done.columns == ("batch_hash", "grad_norm", "loss", "param_hash")
    again(run, tmp_path / "skip", 4, 12, "skip=6:8")
    now, then = hashes(tmp_path / "skip"), hashes(run)
    assert [now[step] for step in (5, 6, 7)] == [then[5], then[8], then[9]]


def test_a_rate_without_a_scheduler_is_scaled_once_an_update(tmp_path: Path) -> None:
    config = {**CONFIG, "schedule": False}
    program = build(config)
    with Recorder(tmp_path / "run", config=config, manifest=NAMED) as recorder:
        drive(program, 4, rows=recorder)
    again(tmp_path / "run", tmp_path / "half", 0, 4, "lr-scale=0.5")
    assert set(numbers(tmp_path / "half", "lr").values()) == {0.005}


def test_it_goes_on_from_the_checkpoint_of_a_training_that_kept_no_count(tmp_path: Path) -> None:
    """A `TrainState` of model and optimizer says of no step; the checkpoint and the rows do."""
    model, optimizer, scheduler = make(CONFIG)
    with (
        Recorder(tmp_path / "run", config=CONFIG, manifest=NAMED) as recorder,
        Checkpointer(recorder, TrainState(model, optimizer, scheduler), POLICY) as saves,
    ):
        for step in range(8):
            index = step + 100  # the batches of another place
            ids, labels = batch(index)
            recorder.batch(step, ids, index=index)
            optimizer.zero_grad()
            value = loss(model, (ids, labels))
            value.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            recorder.log(step, loss=value, grad_norm=norm)
            saves.maybe_save(step + 1)
    done = again(tmp_path / "run", tmp_path / "null", 4, 8)
    assert done.exact, done.differences
    again(tmp_path / "null", tmp_path / "again", 4, 8)  # a replay of the replay stands there, too
    assert numbers(tmp_path / "again", "batch_index") == {step: step + 100 for step in range(8)}


def held(*shape: int) -> torch.Tensor:
    return torch.arange(math.prod(shape)).reshape(shape)


CONTENTS: list[Any] = [
    {"input_ids": held(3, 4), "attention_mask": torch.ones(3, 4), "labels": held(3, 4) + 1},
    (held(3, 4), held(3, 4) + 1),
    [{"input_ids": held(2, 4), "labels": held(2, 4) + 1}, {"input_ids": held(1, 4), "labels": held(1, 4) + 9}],
]


def of(content: Any) -> TorchLoop:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TorchLoop(model, optimizer, batch=lambda index: content, loss=lambda model, part: torch.zeros(()))


@pytest.mark.parametrize("content", CONTENTS)
def test_batches_of_the_usual_forms_are_edited(content: Any) -> None:
    program = of(content)
    whole = program.batch(7)
    labels = program.labels(whole)
    assert [list(row) for row in labels] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    dropped = program.edited(whole, Edit(without_rows=frozenset({1})))
    assert [list(row) for row in program.labels(dropped)] == [[1, 2, 3, 4], [9, 10, 11, 12]]
    masked = program.edited(whole, Edit(masked_tokens=frozenset({2, 9}), index=3))
    assert [list(row) for row in program.labels(masked)] == [[1, 3, 4], [5, 6, 7, 8], [10, 11, 12]]
    assert masked.index == 3
    assert [list(row) for row in program.labels(whole)] == [list(row) for row in labels]  # which is as it was
    empty = program.edited(whole, Edit(masked_tokens=frozenset(range(1, 13))))
    assert [list(row) for row in program.labels(program.edited(empty, Edit(unmask=True)))] == [[3], [], []]
    assert program.edited(whole, Edit(unmask=True)).parts == whole.parts


def test_a_row_that_is_left_out_leaves_every_tensor() -> None:
    program = of(CONTENTS[0])
    (part,) = program.edited(program.batch(0), Edit(without_rows=frozenset({0}))).parts
    assert {name: len(tensor) for name, tensor in part.items()} == {"input_ids": 2, "attention_mask": 2, "labels": 2}
    with pytest.raises(UsageError, match="would be empty"):
        of(CONTENTS[2]).edited(of(CONTENTS[2]).batch(0), Edit(without_rows=frozenset({2})))


def test_the_last_label_that_a_mask_lets_through_is_unmasked() -> None:
    ids = held(1, 4)
    mask = torch.tensor([[1, 1, 1, 0]])
    program = of({"input_ids": ids, "attention_mask": mask, "labels": torch.full((1, 4), -100)})
    (part,) = program.edited(program.batch(0), Edit(unmask=True)).parts
    assert part["labels"].tolist() == [[-100, -100, 2, -100]]


def test_a_batch_of_no_known_form_is_named() -> None:
    with pytest.raises(UsageError, match="the rows of a batch of type str are unknown"):
        of("text").labels(of("text").batch(0))
