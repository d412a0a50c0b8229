"""What a watch records of token losses, and what the watched model says about itself."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")
from torch import Tensor, nn
from torch.nn import functional as F

from postmortem.record import Recorder
from postmortem.record._logits import losses_of_logits
from postmortem.record.watch import Watch
from postmortem.sources import open_run
from tests.record.watched import GPT, Sink, batch_of, hooks_of


def test_explicit_token_losses_count_where_they_are_valid() -> None:
    model, sink = nn.Linear(2, 2), Sink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(sink, model, optimizer, norms_every=2)
    losses = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 8.0]])
    valid = torch.tensor([[True, True, False], [True, True, False]])
    for step in range(4):
        if step != 1:
            watch.token_losses(losses, ids=torch.arange(6).view(2, 3), valid=valid & (step < 2))
        optimizer.step()
        sink.log(step)
    first = sink.rows[0]
    assert [first[f"token_loss_{name}"] for name in ("p50", "p90", "p99", "max")] == [2.0, 4.0, 4.0, 4.0]
    assert first["worst_token_losses"] == [4.0, 3.0, 2.0, 1.0] and first["worst_token_ids"] == [4, 3, 1, 0]
    assert first["worst_token_rows"] == [1, 1, 0, 0] and first["worst_token_cols"] == [1, 0, 1, 0]
    assert "token_loss_max" not in sink.rows[1] and "token_loss_max" in sink.rows[3]
    assert math.isnan(sink.rows[2]["token_loss_max"]) and sink.rows[2]["worst_token_losses"] == []


def test_token_losses_are_those_of_the_whole_step_and_of_every_step() -> None:
    """A bad batch is one step, and a step may be of several micro-batches, with an evaluation between."""
    model, sink = GPT(), Sink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected: list[float] = []
    with Watch(sink, model, optimizer) as watch:
        for step in range(3):
            parts: list[Tensor] = []
            for micro in range(2):
                ids, labels = batch_of(2 * step + micro)
                logits: Tensor = model(ids).logits
                watch.logits(logits, labels)
                losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
                parts.append(losses.detach()[labels.flatten() >= 0])
                losses.mean().backward()
            optimizer.step()
            sink.log(step)
            model.eval()
            model(*batch_of(0))
            model.train()
            expected.append(float(torch.cat(parts).max()))
    assert [row["token_loss_max"] for row in sink.rows.values()] == pytest.approx(expected, rel=1e-4)
    assert [("log_z" in row, "param_norm" in row) for row in sink.rows.values()] == [
        (True, True),
        *[(False, False)] * 2,
    ]
    assert all(max(row["worst_token_rows"]) < 8 for row in sink.rows.values())
    rows = [*sink.rows]
    watch.logits(model(batch_of(0)[0]).logits, batch_of(0)[1])
    sink.log(3)
    assert [*sink.rows] == [*rows, 3] and "token_loss_max" not in sink.rows[3], "a closed watch records nothing"


def test_what_the_loop_does_with_its_tensors_later_does_not_matter(tmp_path: Path) -> None:
    """A loader may fill the same buffers at each micro-batch, and a batch may be larger than a cell."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, labels = torch.zeros(64, 100), torch.zeros(64, 100, dtype=torch.long)
    with Recorder(tmp_path / "run", provenance=False) as rec:
        watch = rec.watch(model, optimizer, norms_every=0, layers_every=0, hash_every=0)
        for micro in range(2):
            losses.fill_(1.0 + micro)
            labels.fill_(10 + micro)
            losses[3, 7] = 5.0 + micro
            watch.token_losses(losses, labels=labels)
        optimizer.step()
        losses.fill_(math.nan)
        labels.fill_(-1)
        rec.log(0, loss=1.5)
    (row,) = open_run(tmp_path / "run").to_pandas().to_dict("records")
    assert (row["token_loss_p99"], row["token_loss_max"]) == (2.0, 6.0)
    assert list(row["worst_token_losses"])[:3] == [6.0, 5.0, 2.0]
    assert [list(row[f"worst_token_{part}"])[:2] for part in ("ids", "rows", "cols")] == [[11, 10], [67, 3], [7, 7]]


def test_losses_of_a_step_without_an_update_are_of_no_row() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(sink, model, optimizer)
    for step, (loss, updated) in enumerate(((9.0, False), (2.0, True))):  # a loss scaler skips the first
        watch.token_losses(torch.full((2, 3), loss))
        if updated:
            optimizer.step()
        sink.log(step)
    assert "token_loss_max" not in sink.rows[0] and sink.rows[1]["token_loss_max"] == 2.0


class Tied(nn.Module):
    """A language model without a head of its own, whose width is the number of its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 16), nn.Embedding(16, 16)
        self.mlp = nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.mlp(self.tokens(ids) + self.places(torch.arange(ids.shape[1]))) @ self.tokens.weight.T


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        (nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 50)), 50),
        (Tied(), 50),
        (nn.Sequential(nn.Embedding(16, 16), nn.Linear(16, 16)), None),  # positions, or the width
        (nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Linear(32, 3)), None),  # a classifier
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_a_model_says_its_vocabulary_and_its_precision(model: nn.Module, vocabulary: int | None, half: bool) -> None:
    model = copy.deepcopy(model)
    first, sink = next(model.parameters()), Sink()
    first.requires_grad = False
    optimizer = torch.optim.SGD([*model.parameters()][1:], lr=0.1)
    with Watch(sink, model, optimizer, layers_every=0), torch.autocast("cpu", torch.bfloat16, enabled=half):
        model.eval()
        model(torch.zeros(1, 2, dtype=torch.int64))
        model.train()
        for step in range(2):
            model(torch.zeros(4, 2, dtype=torch.int64)).sum().backward()
            optimizer.step()
            sink.log(step)
    elements = sum(parameter.numel() for parameter in model.parameters())
    facts = {"dtype": "bf16" if half else "fp32", "parameters": elements, "frozen_parameters": first.numel()}
    assert sink.facts == facts | ({} if vocabulary is None else {"vocab_size": vocabulary})
    assert not hooks_of(model)


def test_what_a_run_says_of_itself_stays(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 50))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(tmp_path / "run", manifest={"dtype": "fp8"}) as rec:
        rec.watch(model, optimizer)
        for step in range(3):
            loss = model(torch.zeros(4, 2, dtype=torch.int64)).mean()
            loss.backward()
            optimizer.step()
            rec.log(step, loss=loss)
    manifest = open_run(tmp_path / "run").manifest
    assert (manifest.dtype, manifest.vocab_size, manifest.raw["frozen_parameters"]) == ("fp8", 50, 0)


@pytest.mark.parametrize("sliced", [False, True])
def test_of_many_logits_every_nth_position_is_read(sliced: bool) -> None:
    logits = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))[:, : 8 if sliced else 9]
    labels = torch.arange(logits.shape[1]).remainder(5).expand(3, -1)
    whole, some = losses_of_logits(logits, labels, 10), losses_of_logits(logits, labels, 10, 50)
    own = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    torch.testing.assert_close(whole.losses.view(labels.shape), own)
    torch.testing.assert_close(some.losses.view(labels.shape)[:, ::3], own[:, ::3])
    assert int(some.losses.isfinite().sum()) == own[:, ::3].numel()
