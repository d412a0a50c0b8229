"""Plain state as JSON, there and back."""

from __future__ import annotations

import json
import math
import random
import struct
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from postmortem.checkpoint.encoding import decode, encode
from postmortem.errors import UnreadableInput, UsageError
from tests.checkpoint.helpers import same


def there_and_back(value: Any) -> Any:
    text = json.dumps(encode(value, lambda path, inner: None), allow_nan=False)
    return decode(json.loads(text), lambda name, numpy: None)


KEYS = st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.tuples(st.integers(), st.text()))
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=20)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


@pytest.mark.heavy
@given(VALUES)
def test_every_plain_value_comes_back_the_same(value: Any) -> None:
    assert same(there_and_back(value), value)


def test_floats_come_back_bit_for_bit() -> None:
    payload = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
    for value in (math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, payload):
        assert struct.pack(">d", there_and_back(value)) == struct.pack(">d", value)


@pytest.mark.parametrize(
    "value",
    [
        torch.Generator().manual_seed(3).get_state(),
        torch.tensor(1.5),
        torch.tensor([math.nan, -0.0], dtype=torch.bfloat16),
        torch.zeros(0, 3, dtype=torch.int64),
        torch.tensor([1 + 2j]),
        torch.arange(6).reshape(2, 3).t(),
        np.arange(6, dtype=np.uint32).reshape(2, 3),
        np.float64(0.1),
        np.float32(3.0),
        np.random.default_rng(5).bit_generator.state,
        np.random.get_state(),
        random.Random(3).getstate(),
        Counter({30: 1, 80: 2}),
        {"$tuple": [1], "a": {"$x": 1}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_states_are_made_of(value: Any) -> None:
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, defaultdict(int), np.array(["a"]), np.array([object()]), slice(3), torch.float32],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_its_key(value: Any) -> None:
    with pytest.raises(UsageError, match=r"loader\.workers\.1: a "):
        there_and_back({"loader": {"workers": [0, value]}})


@pytest.mark.parametrize(
    "damaged",
    [
        {"$float": "zz"},
        {"$ndarray": {"dtype": "O", "shape": [1], "data": "AAAAAAAAAAA="}},
        {"$tensor": {"dtype": "load", "shape": [1], "data": "AA=="}},
        {"$tensor": {"dtype": "uint8", "shape": [9], "data": "AA=="}},
        {"$dict": [[[], 1]]},
        {"$dict": 3},
        {"$unheard": 1},
        {"$bytes": "?"},
    ],
    ids=str,
)
def test_what_was_never_written_is_refused(damaged: Any) -> None:
    with pytest.raises(UnreadableInput, match="damaged"):
        decode(damaged, lambda name, numpy: None)
