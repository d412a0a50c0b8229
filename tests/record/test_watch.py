"""What a watch measures, against direct computation; when it does; and that it never waits for a device."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from postmortem.errors import UsageError
from postmortem.record import Recorder
from postmortem.record._layers import TOKEN_LOSSES, TOKEN_WIDTH, WATCHED
from postmortem.record.state_hash import state_hash
from postmortem.record.watch import Watch, finish_watched_row
from postmortem.sources import open_run
from tests.record.watched import GPT, VOCABULARY, WIDTH, Sink, batch_of, hooks_of, train


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"fused": True}, {"betas": (0.8, 0.9), "eps": 1e-3}])
def test_norms_and_moments_are_those_computed_directly(settings: dict[str, Any]) -> None:
    model, sink = GPT(), Sink()
    decayed = [{"params": list(model.blocks.parameters())}, {"params": [*model.wte.parameters()], "lr": 1e-3}]
    rest = [*model.ln_f.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW([*decayed, {"params": rest}], lr=1e-2, weight_decay=0.0, **settings)
    with Watch(sink, model, optimizer, norms_every=1, hash_every=1):
        train(model, optimizer, sink, range(3))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        train(model, optimizer, sink, range(3, 4))
    row, parameters = sink.rows[3], dict(model.named_parameters())
    groups = {"embed": ["wte"], "head": ["ln_f", "lm_head"], **{f"layer{n}": [f"blocks.{n}."] for n in range(3)}}
    for group, starts in groups.items():
        members = [p for name, p in parameters.items() if name.startswith(tuple(starts))]
        assert row[f"param_norm/{group}"] == pytest.approx(_norm([p.detach() for p in members]), rel=1e-5)
        assert row[f"grad_norm/{group}"] == pytest.approx(_norm([p.grad for p in members]), rel=1e-5)
    assert row["param_norm"] == pytest.approx(_norm([p.detach() for p in model.parameters()]), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(_norm([p.grad for p in model.parameters()]), rel=1e-5)
    states = [optimizer.state[p] for p in model.parameters()]
    assert row["adam_m_norm"] == pytest.approx(_norm([state["exp_avg"] for state in states]), rel=1e-5)
    assert row["adam_v_norm"] == pytest.approx(_norm([state["exp_avg_sq"] for state in states]), rel=1e-5)
    assert row["optimizer_step"] == 4 and row["nonfinite_count"] == 0
    rates = [1e-3 if p is model.wte.weight else 1e-2 for p in model.parameters()]
    updates = [(new.detach() - old) / lr for new, old, lr in zip(model.parameters(), before, rates, strict=True)]
    elements = sum(p.numel() for p in model.parameters())
    assert row["update_rms"] == pytest.approx(_norm(updates) / math.sqrt(elements), rel=1e-3)
    beta, eps = settings.get("betas", (0.9, 0.999))[1], settings.get("eps", 1e-8)
    second = "max_exp_avg_sq" if "amsgrad" in settings else "exp_avg_sq"
    ratios = [
        (p.grad / ((state[second] / (1 - beta**4)).sqrt() + eps)).square().sum()
        for p, state in zip(model.parameters(), states, strict=True)
    ]
    assert row["g2_over_v"] == pytest.approx(float(sum(ratios)) / elements, rel=1e-4)
    assert row["param_hash"] == state_hash(parameters).hex != sink.rows[2]["param_hash"]


def test_activations_dead_units_and_logits_are_those_computed_directly() -> None:
    model, sink = GPT(), Sink()
    with torch.no_grad():
        model.blocks[1].mlp[0].bias[:5] = -1e3  # five units that nothing wakes
    seen: dict[str, list[Tensor]] = {}
    for n, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _, __, output, n=n: seen.setdefault(f"layer{n}", []).append(output[0]))
        block.mlp[1].register_forward_hook(lambda _, __, output, n=n: seen.setdefault(f"relu{n}", []).append(output))
    optimizer = torch.optim.AdamW(model.parameters())
    ids, labels = batch_of(0)
    with torch.no_grad():
        output = model(ids, labels=labels)
    with Watch(sink, model, optimizer):
        train(model, optimizer, sink, range(1))
    row = sink.rows[0]
    for n in range(3):
        x, units = seen[f"layer{n}"][0], seen[f"relu{n}"][0]
        assert row[f"act_rms/layer{n}"] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)
        assert row[f"act_max/layer{n}"] == pytest.approx(float(x.abs().max()), rel=1e-5)
        assert row[f"dead_frac/layer{n}"] == pytest.approx(float((units.flatten(0, 1) == 0).all(0).float().mean()))
    assert row["dead_frac/layer1"] >= 5 / 32
    assert row["max_output_logit"] == pytest.approx(float(output.logits.max()), rel=1e-5)
    assert row["log_z"] == pytest.approx(float(output.logits.logsumexp(-1).mean()), rel=1e-5)
    losses = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    counted = np.sort(losses[labels.flatten() >= 0].numpy())
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
        expected = float(np.quantile(counted, share, method="inverted_cdf"))
        assert row[f"token_loss_{name}"] == pytest.approx(expected, rel=1e-4), name
    worst = list(zip(row["worst_token_rows"], row["worst_token_cols"], strict=True))
    assert row["worst_token_losses"] == pytest.approx(counted[::-1][:8].tolist(), rel=1e-4)
    assert row["worst_token_ids"] == [int(labels[place]) for place in worst]


def test_causal_models_of_hugging_face_predict_the_next_label() -> None:
    class TinyForCausalLM(GPT):
        pass

    rows = []
    for model, shifted in ((GPT(), False), (TinyForCausalLM(), True)):
        sink = Sink()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Watch(sink, model, optimizer):
            ids = batch_of(0)[0]
            padded = torch.cat([torch.full((4, 1), -100), ids[:, :-1]], 1) if shifted else ids
            model(ids, labels=padded if shifted else torch.cat([ids[:, :-2], torch.full((4, 2), -100)], 1))
            optimizer.step()
        sink.log(0)
        rows.append(sink.rows[0])
    model = GPT()
    with torch.no_grad():
        logits = model(batch_of(0)[0]).logits
    own = F.cross_entropy(logits[:, :-2].flatten(0, 1), batch_of(0)[0][:, :-2].flatten(), reduction="none")
    assert rows[0]["token_loss_max"] == pytest.approx(float(own.max()), rel=1e-4)
    following = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch_of(0)[0][:, :-1].flatten(), reduction="none")
    assert rows[1]["token_loss_max"] == pytest.approx(float(following.max()), rel=1e-4)


def test_cadence_is_honored_and_unsampled_steps_have_no_hooks() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters())
    watch = Watch(sink, model, optimizer, norms_every=2, layers_every=3, hash_every=4)
    hooks: list[int] = []
    train(model, optimizer, sink, range(9), lambda step: hooks.append(hooks_of(model.blocks)))
    assert [step for step, row in sink.rows.items() if "act_rms/layer0" in row] == [0, 3, 6]
    assert [step for step, row in sink.rows.items() if "param_hash" in row] == [0, 4, 8]
    # Gradients are seen whenever anything is: norms belong to the row of an activation, too.
    assert [step for step, row in sink.rows.items() if "param_norm" in row] == [0, 2, 3, 4, 6, 8]
    assert [count > 0 for count in hooks] == [(step + 1) % 3 == 0 for step in range(9)]
    watch.close()
    train(model, optimizer, sink, range(9, 13))
    assert not hooks_of(model) and all(list(sink.rows[step]) == ["loss"] for step in range(9, 13))


def test_every_step_is_sampled_while_something_moves() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters())

    def moves(step: int) -> None:
        sink.something_moved_recently = 4 <= step < 7

    with Watch(sink, model, optimizer, norms_every=100, hash_every=0):
        train(model, optimizer, sink, range(1, 12), moves)
    assert [step for step, row in sink.rows.items() if "param_norm" in row][1:] == [5, 6, 7, 8]
    # Hooks stand or not before the row that moves is logged, so a forward pass is watched one step later.
    assert [step for step, row in sink.rows.items() if "act_max/layer2" in row][1:] == [6, 7, 8]
    assert not any("param_hash" in row for row in sink.rows.values())


def test_values_of_a_step_that_nobody_logs_are_not_given_to_another() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters())
    sink.log(9)
    with Watch(sink, model, optimizer, norms_every=5):
        for step in range(10, 18):
            optimizer.step()
            if step in (15, 17):
                sink.log(step)
    assert "param_norm" in sink.rows[15] and "param_norm" not in sink.rows[17]
    with Watch(sink, model, optimizer, norms_every=2):
        optimizer.step()  # step 18 is sampled and not logged
        optimizer.step()
        sink.log(19)
    assert "param_norm" not in sink.rows[19]


def test_clipped_gradients_are_told_from_those_before() -> None:
    seen = {f"{WATCHED}grad_norm": 1.0, f"{WATCHED}grad_norm/embed": 0.6, f"{WATCHED}grad_norm/head": 0.8}
    row = finish_watched_row({**seen, "grad_norm": 4.0})
    assert row == {"grad_norm": 4.0, "grad_norm_clipped": 1.0, "grad_norm/embed": 2.4, "grad_norm/head": 3.2}
    assert finish_watched_row(seen) == {"grad_norm": 1.0, "grad_norm/embed": 0.6, "grad_norm/head": 0.8}
    kept = finish_watched_row({**seen, "grad_norm": math.inf})
    assert kept["grad_norm/embed"] == 0.6 and kept["grad_norm"] == math.inf


def test_what_the_loop_logs_itself_stays() -> None:
    own = {"grad_norm": 4.0, "grad_norm/embed": 3.0, "param_hash": "own", "_mine": 1, "worst_token_ids": [7]}
    seen = {f"{WATCHED}grad_norm": 1.0, f"{WATCHED}grad_norm/embed": 0.6, f"{WATCHED}param_hash": [1, -1]}
    assert finish_watched_row({**seen, **own}) == {**own, "grad_norm_clipped": 1.0}
    assert finish_watched_row(own) == own
    assert finish_watched_row({f"{WATCHED}param_hash": [1, -1]}) == {"param_hash": f"{1:016x}{'f' * 16}"}


def test_non_finite_gradients_and_parameters_are_counted_and_named() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters())
    with Watch(sink, model, optimizer):
        model(*batch_of(0)).loss.backward()
        model.lm_head.weight.grad[0, :3] = torch.tensor([math.inf, math.nan, -math.inf])
        optimizer.step()
        sink.log(0)
    row = sink.rows[0]
    assert row["nonfinite_count"] == 3 and row["nonfinite_parameters"] == ["lm_head.weight"]
    assert math.isnan(row["param_norm/head"]) and math.isfinite(row["param_norm/embed"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_other_optimizers_and_models_without_layers(momentum: float) -> None:
    torch.manual_seed(0)
    model, sink = nn.Linear(5, 3), Sink()
    frozen = nn.Parameter(torch.full((2,), 3.0), requires_grad=False)
    model.register_parameter("frozen", frozen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    with Watch(sink, model, optimizer, norms_every=1):
        for step in range(3):
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
            sink.log(step)
    updates = [(new.detach() - old) / 0.1 for new, old in zip(model.parameters(), before, strict=True)]
    assert sink.rows[2]["update_rms"] == pytest.approx(_norm(updates) / math.sqrt(18), rel=1e-4)
    assert sink.rows[2]["param_norm"] == pytest.approx(_norm([p.detach() for p in model.parameters()]), rel=1e-5)
    assert not any(name.startswith(("adam", "act_", "g2_")) for name in sink.rows[2])


def test_without_an_optimizer_the_forward_pass_is_watched() -> None:
    model, sink = GPT(), Sink()
    with Watch(sink, model, layers_every=2):
        for step in range(4):
            model(*batch_of(step))
            model.eval()
            model(batch_of(99)[0] * 0)
            model.train()
            sink.log(step)
    assert [step for step, row in sink.rows.items() if "act_rms/layer2" in row] == [0, 2]
    assert not hooks_of(model)


def test_evaluation_leaves_no_activations() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters())
    with Watch(sink, model, optimizer, layers_every=1):
        model(*batch_of(0)).loss.backward()
        model.eval()
        model(batch_of(1)[0])
        model.train()
        optimizer.step()
        sink.log(0)
    with torch.no_grad():
        expected = GPT()
        x = expected.blocks[0](expected.wte(batch_of(0)[0]))[0]
    assert sink.rows[0]["act_rms/layer0"] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)


def test_the_scale_of_a_loss_scaler_is_recorded_and_its_gradients_unscaled() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Watch(sink, model, optimizer, scaler=scaler):
        scaler.scale(model(*batch_of(0)).loss).backward()
        scaler.step(optimizer)
        scaler.update()
        sink.log(0)
    plain = GPT()
    plain(*batch_of(0)).loss.backward()
    assert sink.rows[0]["loss_scale"] == 1024.0
    assert sink.rows[0]["grad_norm"] == pytest.approx(_norm([p.grad for p in plain.parameters()]), rel=1e-4)


class NoWaiting(TorchFunctionMode):
    """Fails where a value is read on the host, which makes an accelerator's queue run dry."""

    def __init__(self, on_the_host: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.on_the_host = on_the_host

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "nonzero", "equal")
        if args and any(args[0] is value for value in self.on_the_host):
            return func(*args, **(kwargs or {}))
        assert getattr(func, "__name__", "") not in waits, f"{func.__name__} waits for the device"
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_on_the_host() -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        float(model.wte.weight.sum())
    read: list[Any] = []
    with Watch(sink, model, optimizer, norms_every=1, layers_every=1, hash_every=1) as watch:
        train(model, optimizer, sink, range(1))
        ids, labels = batch_of(1)
        loss = model(ids, labels=labels).loss
        loss.backward()
        (updated,) = (hook for hook in optimizer._optimizer_step_post_hooks.values())
        optimizer.step()
        counts = [state["step"] for state in optimizer.state.values()]  # never on an accelerator, unless asked for
        with NoWaiting(counts), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sink, "attach", read.append)
            watch._step = 1
            watch._before_step()
            model(ids, labels=labels)
            watch.token_losses(torch.rand(4, 7), labels=labels)
            updated(optimizer, (), {})
    assert {"act_rms/layer0", TOKEN_LOSSES, "update_rms", f"{WATCHED}param_hash", "log_z"} <= set(read[0])
    names = {name for name, value in read[0].items() if not isinstance(value, Tensor)}
    assert names == {"optimizer_step", f"{WATCHED}names", TOKEN_WIDTH}


def test_a_failure_ends_the_watch_and_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sink = GPT(), Sink()
    optimizer = torch.optim.AdamW(model.parameters())

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("postmortem.record.watch.measure_update", fails)
    Watch(sink, model, optimizer)
    with pytest.warns(UserWarning, match="watching ends: RuntimeError: no such kernel"):
        train(model, optimizer, sink, range(1))
    train(model, optimizer, sink, range(1, 3))
    assert not hooks_of(model) and list(sink.rows) == [0, 1, 2]


def test_a_cadence_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="layers_every is -1"):
        Watch(Sink(), GPT(), layers_every=-1)


def test_values_land_in_the_rows_of_their_steps_through_a_recorder(tmp_path: Path) -> None:
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters())
    with Recorder(tmp_path / "run", provenance=False) as rec:
        watch = rec.watch(model, optimizer, norms_every=3, layers_every=4)
        norms: dict[int, float] = {}
        hashes: dict[int, str] = {}

        def compute(step: int) -> None:
            norms[step] = _norm([p.detach() for p in model.parameters()])
            hashes[step] = state_hash(dict(model.named_parameters())).hex

        for step in range(8):
            rec.batch(step, batch_of(step)[0])
            train(model, optimizer, rec, range(step, step + 1), compute)
        watch.close()
    run = open_run(tmp_path / "run")
    series, layers, labels = run.series("param_norm"), run.series("act_rms/layer1"), run.labels("param_hash")
    assert series is not None and layers is not None and labels is not None
    assert series.step.tolist() == [0, 3, 4, 6] and layers.step.tolist() == [0, 4]
    assert series.value.tolist() == pytest.approx([norms[step] for step in series.step.tolist()], rel=1e-5)
    assert labels.at(0) == hashes[0]


def test_a_copy_of_a_watched_model_is_not_watched(tmp_path: Path) -> None:
    model = GPT()
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        ids = torch.zeros(1, 4, dtype=torch.long)
        for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
            twin.train()(ids)
        rec.log(0, loss=1.0)
    assert not [name for name in open_run(tmp_path / "run").columns if name.startswith("act_")]


def test_sparse_gradients_are_measured_as_dense_ones(tmp_path: Path) -> None:
    norms: list[float] = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH, sparse=sparse), nn.Linear(WIDTH, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Recorder(tmp_path / str(sparse), provenance=False) as rec:
            rec.watch(model, optimizer)
            model(torch.tensor([1, 1, 3])).sum().backward()
            optimizer.step()
            rec.log(0, loss=1.0)
        norm = open_run(tmp_path / str(sparse)).series("grad_norm")
        assert norm is not None
        norms.append(float(norm.value[0]))
    assert norms[0] == pytest.approx(norms[1]) and norms[0] > 0


def test_the_cadence_follows_the_steps_that_are_logged(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Recorder(tmp_path / "run", provenance=False) as rec:
        rec.watch(model, optimizer)
        for step in range(33, 52):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            rec.log(step, lr=0.1)
    norm = open_run(tmp_path / "run").series("param_norm")
    assert norm is not None and norm.step.tolist() == [33, 40, 50]
