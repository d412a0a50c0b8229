"""Hashes differ whenever bits or places do, and the sharding-independent one does not see the sharding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")
from torch import Tensor

from postmortem.errors import UsageError
from postmortem.record import state_hash as module
from postmortem.record._layers import group_of, layers_of, plain_name
from postmortem.record._shards import Shard
from postmortem.record.hashing import batch_hash, local_state_hash
from postmortem.record.state_hash import join_parts, state_hash

DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip

_WORKER = Path(__file__).parent / "_sharded_hash.py"


def _tensor(dtype: torch.dtype, shape: Sequence[int], seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(*shape, generator=random) < 0.5
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), generator=random, dtype=torch.uint8)
    return bits.view(dtype).view(*shape)


def _both(tensor: Tensor) -> tuple[str, str]:
    return state_hash({"w": tensor}).hex, local_state_hash({"w": tensor})["w"]


@settings(max_examples=300)
@given(dtype=st.sampled_from(DTYPES), numel=st.integers(1, 300), seed=st.integers(0, 2**32), data=st.data())
def test_a_flipped_bit_shows_in_both_state_hashes(
    dtype: torch.dtype, numel: int, seed: int, data: st.DataObject
) -> None:
    tensor = _tensor(dtype, [numel], seed)
    flipped = tensor.clone()
    at = data.draw(st.integers(0, numel - 1))
    if dtype is torch.bool:
        flipped[at] = ~flipped[at]
    else:
        flipped.view(torch.uint8)[at * dtype.itemsize + data.draw(st.integers(0, dtype.itemsize - 1))] ^= (
            1 << data.draw(st.integers(0, 7))
        )
    for before, after in zip(_both(tensor), _both(flipped), strict=True):
        assert before != after


@settings(max_examples=300)
@given(
    dtype=st.sampled_from(DTYPES),
    values=st.lists(st.integers(0, 2), min_size=2, max_size=60),  # few values: sums collide easily where they can
    data=st.data(),
)
def test_a_permutation_shows_in_both_state_hashes(dtype: torch.dtype, values: list[int], data: st.DataObject) -> None:
    tensor = torch.tensor(values).to(dtype)
    permuted = tensor[torch.tensor(data.draw(st.permutations(range(len(values)))))]
    same = torch.equal(tensor.view(torch.uint8), permuted.view(torch.uint8))
    for before, after in zip(_both(tensor), _both(permuted), strict=True):
        assert (before == after) == same


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_a_transposition_and_a_reshape_show_in_both_state_hashes(rows: int, columns: int, seed: int) -> None:
    tensor = _tensor(torch.int32, [rows, columns], seed)
    for other in (tensor.t(), tensor.reshape(columns, rows), tensor.reshape(-1)):
        same = tensor.shape == other.shape and torch.equal(tensor, other)
        for before, after in zip(_both(tensor), _both(other), strict=True):
            assert (before == after) == same


@pytest.mark.parametrize("numel", [2**13, 2**14 + 1, 5 * 2**14 + 3, 2**18 + 77])
def test_bits_and_swaps_show_across_the_blocks_of_a_large_tensor(numel: int) -> None:
    tensor = _tensor(torch.int32, [numel], numel)
    rng = np.random.default_rng(numel)
    hashes = {state_hash({"w": tensor}).hex}
    for i, j in rng.integers(0, numel, (20, 2)):
        flipped, swapped = tensor.clone(), tensor.clone()
        flipped[i] ^= -(2**31)  # the sign bit, which multiplications move out first
        swapped[i], swapped[j] = tensor[j], tensor[i]
        hashes |= {state_hash({"w": flipped}).hex, state_hash({"w": swapped}).hex}
    assert len(hashes) == 41


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64])
def test_two_flipped_signs_of_wide_elements_do_not_cancel(dtype: torch.dtype) -> None:
    """Sums modulo 2⁶⁴ of 64-bit elements would lose them: 2⁶³ times two odd numbers is 0."""
    tensor = _tensor(dtype, [8], 1)
    flipped = tensor.clone()
    flipped.view(torch.int64)[[2, 5]] ^= torch.iinfo(torch.int64).min
    assert state_hash({"w": tensor}).hex != state_hash({"w": flipped}).hex


def test_names_dtypes_and_shapes_count_and_wrappers_do_not() -> None:
    zeros = torch.zeros(6)
    states = [
        {"a": zeros}, {"b": zeros}, {"a": zeros, "b": zeros}, {"a": zeros.int()}, {"a": zeros.view(2, 3)}, {},
        {"a": zeros[:0]}, {"a": zeros[0]},
    ]  # fmt: skip
    assert len({state_hash(state).hex for state in states}) == len(states)
    one, two = torch.randn(4), torch.randn(4)
    assert state_hash({"a": one, "b": two}).hex != state_hash({"a": two, "b": one}).hex
    assert state_hash({"a": one, "b": two}) == state_hash({"module.b": two, "_orig_mod.a": one})


def test_small_tensors_hash_the_same_joined_or_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {f"w{n}": _tensor(dtype, [n + 1, 3], n) for n, dtype in enumerate(DTYPES)}
    expected = state_hash(state).hex
    monkeypatch.setattr(module, "_SMALL", -1)
    assert state_hash(state).hex == expected


@settings(max_examples=150)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    dim=st.integers(0, 2),
    ranks=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_words_of_shards_add_up_to_the_word_of_the_whole(
    shape: list[int], dim: int, ranks: int, dtype: torch.dtype, seed: int
) -> None:
    """Shards as DTensor cuts them, along any dimension, some of them empty."""
    tensor = _tensor(dtype, shape, seed)
    dim %= len(shape)
    parts: list[str] = []
    at = 0
    pieces = list(tensor.chunk(ranks, dim))
    pieces += [tensor.narrow(dim, shape[dim], 0)] * (ranks - len(pieces))
    for rank, piece in enumerate(pieces):
        offsets = tuple(at if d == dim else 0 for d in range(len(shape)))
        shard = Shard(piece, tuple(shape), offsets, groups=("the others",), first=rank == 0)
        parts.append(module.hex_of(module._partial([("w", shard)]).words.tolist()))
        at += piece.shape[dim]
    assert join_parts(parts) == state_hash({"w": tensor}).hex


def test_non_finite_elements_are_counted_by_name() -> None:
    nan, inf = float("nan"), float("inf")
    state = {
        "fine": torch.tensor([3.4e38, -3.4e38]),
        "bad": torch.tensor([1.0, nan, inf, -inf]),
        "half": torch.tensor([65504.0, inf], dtype=torch.float16),
        "eight": torch.tensor([1.0, nan]).to(torch.float8_e4m3fn),
        "whole": torch.tensor([1, 2]),
        "complex": torch.tensor([complex(1, nan)]),
        "none": torch.tensor([]),
    }
    assert state_hash(state).nonfinite == {"bad": 3, "half": 1, "eight": 1, "complex": 1}


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_equal_state_has_equal_hash_whatever_the_world_size(ranks: int, tmp_path: Path) -> None:
    """FSDP2 and two-dimensional DTensors under gloo; each rank compares with the hash of the whole in one process."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*launch, str(_WORKER), str(tmp_path)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    words = [file.read_text() for file in sorted(tmp_path.glob("rank-*"))]
    assert len(words) == ranks and set(words) == {words[0]}


def test_local_hash_is_by_group_and_does_not_show_threads() -> None:
    state = {"tokens": torch.randn(30), "blocks.1.up": torch.randn(3 * 2**20), "lm_head.weight": torch.randn(4, 4)}
    hashes = local_state_hash(state)
    assert list(hashes) == ["embed", "layer1", "head"]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert local_state_hash(state) == hashes
    finally:
        torch.set_num_threads(before)
    state["blocks.1.up"][-1] += 1
    changed = local_state_hash(state)
    assert changed["layer1"] != hashes["layer1"] and changed["embed"] == hashes["embed"]


def test_local_hash_sees_where_one_tensor_ends() -> None:
    x = torch.arange(6)
    assert local_state_hash({"a": x[:2], "b": x[2:]}, lambda _: "all") != local_state_hash(
        {"a": x[:3], "b": x[3:]}, lambda _: "all"
    )


def test_batch_hash_is_over_dtype_shape_and_content() -> None:
    ids = np.arange(12, dtype=np.int64).reshape(3, 4)
    different = [ids, ids.astype(np.int32), ids.reshape(4, 3), ids[::-1], ids.T, ids + 1, ids.astype(np.float64)]
    assert len({batch_hash(batch) for batch in different}) == len(different)
    assert len(batch_hash(ids)) == 32


def test_batch_hash_is_the_same_for_equal_batches_of_any_kind() -> None:
    ids = np.arange(12, dtype=np.int64).reshape(3, 4)
    equal = [ids, torch.from_numpy(ids), ids.tolist(), np.asfortranarray(ids), torch.from_numpy(ids.T.copy()).t()]
    equal += [ids.astype(">i8"), torch.from_numpy(np.repeat(ids, 2, axis=1))[:, ::2]]
    assert {batch_hash(batch) for batch in equal} == {batch_hash(ids)}


@pytest.mark.parametrize("batch", [[[1], [1, 2]], {"ids": [1]}, "text", None, object()])
def test_what_is_no_batch_is_refused_in_one_sentence(batch: object) -> None:
    with pytest.raises(UsageError, match="cannot be hashed"):
        batch_hash(batch)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("blocks.0.attn.weight", "layer0"),
        ("module._orig_mod.model.layers.11.mlp.up_proj.weight", "layer11"),
        ("transformer.h.3.ln_1.bias", "layer3"),
        ("tokens", "embed"),
        ("model.embed_tokens.weight", "embed"),
        ("transformer.wte.weight", "embed"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "head"),
        ("transformer.ln_f.bias", "head"),
        ("encoder.proj.weight", "encoder"),
        ("weight", "other"),
    ],
)
def test_groups_are_named_for_layers_embedding_and_head(name: str, group: str) -> None:
    assert group_of(name) == group


def test_wrappers_leave_no_trace_in_names() -> None:
    assert plain_name("module._orig_mod.blocks.0._checkpoint_wrapped_module.up.weight") == "blocks.0.up.weight"
    assert plain_name("my_module.weight") == "my_module.weight"


def test_layers_are_those_of_the_largest_list() -> None:
    nn = torch.nn
    model = nn.ModuleDict(
        {
            "small": nn.Sequential(nn.Linear(2, 2)),
            "blocks": nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(3)),
        }
    )
    assert [(name, id(block)) for name, block in layers_of(model)] == [
        (f"layer{n}", id(block)) for n, block in enumerate(model["blocks"])
    ]
    assert not list(layers_of(nn.Linear(2, 2)))
