"""The restricted unpickler: checkpoints come out, nothing runs."""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postmortem.checkpoint import pickles
from postmortem.checkpoint.allowlist import DTYPES, InertStorage, InertTensor
from postmortem.checkpoint.pickles import ALLOWED_GLOBALS, InertObject, RefusedPickle, load_at, safe_load
from tests.checkpoint.makers import GADGETS, dcp, gadgets

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(-99, 99), inner),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    if protocol == 2 and (b"_codecs" in data or b"__builtin__" in data):
        safe_load(data)  # bytes of protocol 2 are spelled by a call, which stays a record
        return
    assert safe_load(data) == value
    assert safe_load(pickletools.optimize(data)) == value


@pytest.mark.parametrize("what", GADGETS)
def test_a_gadget_runs_nothing_and_is_refused(what: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    before = set(sys.modules)
    begun = time.perf_counter()
    with pytest.raises(RefusedPickle) as refused:
        safe_load(gadgets(canary)[what], file="x/.metadata")
    assert not canary.exists() and set(sys.modules) - before <= {"pickletools"}
    assert time.perf_counter() - begun < 5
    message = str(refused.value)
    assert message.startswith("x/.metadata: ") and "\n" not in message and len(message) < 400


def test_the_message_names_the_global() -> None:
    with pytest.raises(RefusedPickle, match=r"names posix\.system, which is not on the list.*Nothing of it was run"):
        safe_load(gadgets(Path("c"))["REDUCE posix.system"])


def test_names_in_messages_are_harmless() -> None:
    with pytest.raises(RefusedPickle) as refused:
        safe_load(b"\x80\x04c\x1b[31mos\nsystem\n.")
    assert "\x1b" not in str(refused.value)


@pytest.mark.heavy
def test_deep_nesting_costs_no_stack() -> None:
    value = safe_load(pickle.PROTO + b"\x04" + b"]" * 500_000 + b"a" * 499_999 + b".")
    assert isinstance(value, list) and len(value) == 1


def test_what_a_pickle_may_cost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedPickle, match="more than 64 MiB"):
        safe_load(bytes(pickles.LIMIT + 1))
    monkeypatch.setattr(pickles, "_OPCODES", 1000)
    with pytest.raises(RefusedPickle, match="more than 1,000 operations"):
        safe_load(b"N" * 2000 + b".")


@given(st.binary(max_size=300))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    with contextlib.suppress(RefusedPickle):
        safe_load(b"\x80\x04" + noise)


def test_metadata_of_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    data = (dcp(tmp_path / "a.dcp") / ".metadata").read_bytes()
    read = safe_load(data)
    assert isinstance(read, InertObject) and read.name == "Metadata"
    trusted = pickle.loads(data)
    entries = read.get("state_dict_metadata")
    assert list(entries) == list(trusted.state_dict_metadata)
    for key, entry in trusted.state_dict_metadata.items():
        if hasattr(entry, "size"):
            assert entries[key].get("size") == tuple(entry.size)
            assert f"torch.{entries[key].get('properties').state[0].name}" == str(entry.properties.dtype)
    assert len(read.get("storage_data")) == len(trusted.storage_data)


def test_the_same_list_serves_real_classes() -> None:
    torch = pytest.importorskip("torch")
    from torch.distributed.checkpoint.metadata import MetadataIndex

    real = {key: key for key in ALLOWED_GLOBALS} | {
        ("torch", "Size"): torch.Size,
        ("torch.distributed.checkpoint.metadata", "MetadataIndex"): MetadataIndex,
    }
    index = MetadataIndex("model.weight", (4, 0), 1)
    assert safe_load(pickle.dumps({index: torch.Size((2, 3))}), real) == {index: torch.Size((2, 3))}


def test_every_dtype_of_torch_is_known_or_not_stored() -> None:
    torch = pytest.importorskip("torch")
    found = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}
    exotic = ("q", "int", "uint", "bits", "float4", "bcomplex")
    assert {name for name in found if not name.startswith(exotic)} <= set(DTYPES)


def test_one_pickle_after_another() -> None:
    data = pickle.dumps(1, 2) + pickle.dumps("two", 2)
    first, at = load_at(data, 0)
    assert (first, *load_at(data, at)) == (1, "two", len(data))


def test_tensors_stay_descriptions() -> None:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save(OrderedDict(a=torch.zeros(2, 3)[:, 1:]), buffer)
    import zipfile

    archive = zipfile.ZipFile(buffer)
    data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    storage = InertStorage("float32", "data/0", 6)
    value = safe_load(data, persistent=lambda ident: storage)
    assert isinstance(value["a"], InertTensor)
    assert (value["a"].storage, value["a"].offset, value["a"].size, value["a"].stride) == (storage, 1, (2, 2), (3, 1))
