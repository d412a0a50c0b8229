"""Looking at checkpoints: what is inside, what is wrong, what is not finite; and that nothing of them runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.distributed.checkpoint import metadata as dcp_metadata

from postmortem.checkpoint.inspection import contents_of, inspect, require_sound
from postmortem.errors import UnreadableInput
from tests.checkpoint.helpers import Notes, Training
from tests.checkpoint.makers import GADGETS, dcp, flipped, gadgets, state

FLOATS = (
    *("float64", "float32", "float16", "bfloat16", "complex64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
FULL = ("model", "moments", "schedule", "loader", "rng")


def saved_as(kind: str, folder: Path, values: Any) -> Path:
    """`values` in one of the three formats that are read besides our own."""
    if kind == "dcp":
        return dcp(folder / "step-00000300.dcp", values)
    path = folder / "step-00000300.pt"
    torch.save(values, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = ("dcp", "zip", "legacy")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A recovery checkpoint of the Checkpointer."""
    from postmortem.checkpoint import Checkpointer, Policy

    training = Training()
    with Checkpointer(Notes(tmp_path / "run"), training.state(), Policy(rollback_every=0), asynchronous=False) as saves:
        training.step()
        saves.save(1000, "recovery")
    return tmp_path / "run" / "recovery" / "step-00001000.dcp"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_inside(kind: str, tmp_path: Path) -> None:
    found = inspect(saved_as(kind, tmp_path, state()))
    assert (found.step, found.role, found.complete, found.problems) == (300, "other", True, ())
    assert found.contents == FULL and found.nonfinite == {}
    assert found.checksums == ("absent" if kind == "legacy" else "ok")
    assert found.tensors == 17 and found.size_bytes > 5000
    require_sound(found.path)


def test_a_checkpoint_of_our_own(own: Path) -> None:
    found = inspect(own)
    assert (found.kind, found.role, found.step, found.declared, found.world_size) == (
        *("postmortem", "recovery", 1000, "full", 1),
    )
    assert found.sound and found.checksums == "ok" and found.nonfinite == {} and set(FULL) <= set(found.contents)
    require_sound(own)
    fast = inspect(own, deep=False)
    assert (fast.sound, fast.checksums, fast.nonfinite, fast.contents) == (True, "not read", None, found.contents)


def test_progress_ends_at_the_size_of_what_was_read(own: Path) -> None:
    told: list[tuple[int, int]] = []
    found = inspect(own, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    assert told[-1][1] == found.size_bytes - (own / "checkpoint.json").stat().st_size


def test_contents_by_name() -> None:
    tensors = [
        *("model.loader.weight", "decoder.sampler_head.w"),
        *("optimizer.state.0.exp_avg", "rng.torch", "scaler.scale"),
    ]
    assert contents_of(tensors[1:], []) == ("model", "moments", "rng", "scaler")
    assert contents_of(tensors[:1], ["train_sampler.seed"]) == ("model", "loader")
    assert contents_of(["model.m", "model.exp_avg"], ["optimizer.param_groups.0.lr"]) == ("model",)
    assert contents_of(["optimizer.m.0", "optimizer.v.0"], []) == ("moments",)
    assert contents_of(["state.3.exp_avg_sq"], ["param_groups.0.lr"]) == ("moments",)
    assert contents_of(["0.weight"], ["lr_scheduler.last_epoch", "train_dataloader.position"]) == (
        *("model", "schedule", "loader"),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_non_finite_elements_by_tensor(kind: str, dtype: str, tmp_path: Path) -> None:
    bad = [1.0, math.nan, 2.0, math.nan, 3.0]
    values = {"model": {name: torch.tensor(bad).to(getattr(torch, dtype)) for name in ("a", "b")}}
    values["model"]["b"] = torch.ones(5).to(getattr(torch, dtype))
    expected = {"model.a": int((~torch.isfinite(values["model"]["a"].to(torch.complex64))).sum())}
    assert expected["model.a"] == 2
    assert inspect(saved_as(kind, tmp_path, values)).nonfinite == expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2"])
def test_infinities_and_extremes(dtype: str, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    extremes = [torch.finfo(kind).max, torch.finfo(kind).min, torch.finfo(kind).smallest_normal, -0.0]
    values = {"edge": torch.tensor(extremes, dtype=torch.float64).to(kind), "inf": torch.tensor([math.inf, -math.inf])}
    values["inf"] = values["inf"].to(kind)
    assert inspect(saved_as("zip", tmp_path, values)).nonfinite == {"inf": 2}


def test_tensors_that_share_a_storage_are_told_apart(tmp_path: Path) -> None:
    flat = torch.zeros(3 * 2**20)  # several blocks
    flat[2**20 + 7] = flat[2**20 + 8] = math.nan
    flat[-1] = math.inf
    values = {"all": flat, "first": flat[: 2**20], "second": flat[2**20 : 2 * 2**20], "third": flat[2 * 2**20 :]}
    values["narrow"] = flat[2**20 + 8 : 2**20 + 9]
    assert inspect(saved_as("zip", tmp_path, values)).nonfinite == {"all": 3, "narrow": 1, "second": 2, "third": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found(kind: str, tmp_path: Path) -> None:
    path = saved_as(kind, tmp_path, {"model": {"w": torch.arange(1000.0)}})
    file = path / "__0_0.distcp" if kind == "dcp" else path
    data = file.read_bytes()
    at = data.index(torch.arange(500.0, 510.0).numpy().tobytes())
    file.write_bytes(flipped(data, at))
    found = inspect(path)
    if kind == "legacy":  # which has no checksums: said, not hidden
        assert found.sound and found.checksums == "absent"
        return
    assert found.checksums == f"wrong: {file.name}" and "CRC32 is wrong" in found.problems[0]
    with pytest.raises(UnreadableInput, match=r"not loaded: .*CRC32 is wrong"):
        require_sound(path)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "state-0.json", "checkpoint.json"])
def test_any_byte_of_our_own_counts(own: Path, name: str) -> None:
    data = (own / name).read_bytes()
    for at in (5, len(data) // 2, len(data) - 2):
        (own / name).write_bytes(flipped(data, at))
        assert not inspect(own).sound
    (own / name).write_bytes(data[:-2])
    assert not inspect(own, deep=False).sound
    (own / name).unlink()
    found = inspect(own, deep=False)
    # without checkpoint.json it is a directory of plain DCP, which is no less readable
    assert found.kind == "dcp" if name == "checkpoint.json" else not found.complete and name in found.problems[0]


def test_a_save_that_was_cut_short(tmp_path: Path) -> None:
    path = dcp(tmp_path / "step-00000100.dcp")
    (path / ".metadata").unlink()
    found = inspect(path)
    assert not found.complete and found.step == 100 and "cut short" in found.problems[0]
    with pytest.raises(UnreadableInput, match="cut short"):
        require_sound(path)


@pytest.mark.parametrize("what", GADGETS)
@pytest.mark.parametrize("place", [".metadata", "data.pkl", "legacy"])
def test_a_malicious_checkpoint_runs_nothing(what: str, place: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = gadgets(canary)[what]
    if place == ".metadata":
        path = tmp_path / "step-1.dcp"
        path.mkdir()
        (path / ".metadata").write_bytes(data)
    elif place == "data.pkl":
        import zipfile

        path = tmp_path / "step-1.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    else:
        path = tmp_path / "step-1.pt"
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
        path.write_bytes(magic + data + pickle.dumps([], 2))
    found = inspect(path)
    assert not canary.exists()
    assert not found.sound and len(found.problems) == 1 and len(found.problems[0]) <= 300
    with pytest.raises(UnreadableInput, match="not loaded"):
        require_sound(path)


def test_a_gadget_inside_a_piece_that_is_no_tensor(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    path = dcp(tmp_path / "a.dcp", {"model": {"w": torch.ones(3)}, "note": Evil()})
    (tmp_path / "canary").unlink(missing_ok=True)
    assert "names posix.system" in inspect(path).problems[0]
    assert not (tmp_path / "canary").exists()


Change = Callable[[Any, Path], None]


def relocated(name: str) -> Change:
    return lambda info, folder: setattr(info, "relative_path", name)


def linked(info: Any, folder: Path) -> None:
    """The file is a link that leads out of the checkpoint."""
    (folder / "__0_0.distcp").rename(folder.parent / "elsewhere")
    (folder / "__0_0.distcp").symlink_to(folder.parent / "elsewhere")


LIES: dict[str, tuple[Change, str]] = {
    "dots": (relocated("../../secret"), "leads outside"),
    "absolute": (relocated("/etc/passwd"), "leads outside"),
    "link": (linked, "leads outside"),
    "missing": (relocated("__9_9.distcp"), "missing"),
    "null byte": (relocated("a\0b"), "is no valid path"),
    "directory": (relocated("."), "is a directory"),
    "beyond the end": (lambda info, folder: setattr(info, "offset", 2**40), "cut short"),
    "too long": (lambda info, folder: setattr(info, "length", 2**62), "cut short"),
    "negative": (lambda info, folder: setattr(info, "offset", -5), "in an unknown way"),
    "shifted": (lambda info, folder: setattr(info, "offset", info.offset + 1), "beyond|overlaps|archive"),
    "text for a number": (lambda info, folder: setattr(info, "length", "5"), "in an unknown way"),
    "long name": (relocated("x" * 10_000), "in an unknown way"),
    "transform": (lambda info, folder: setattr(info, "transform_descriptors", ["zstd"]), "transform"),
}


@pytest.mark.parametrize("what", LIES)
def test_tables_that_lie(what: str, tmp_path: Path) -> None:
    path = dcp(tmp_path / "step-1.dcp")
    change, why = LIES[what]
    table = pickle.loads((path / ".metadata").read_bytes())
    index = next(index for index in table.storage_data if index.fqn == "model.0.weight")
    change(table.storage_data[index], path)
    (path / ".metadata").write_bytes(pickle.dumps(table))
    found = inspect(path)
    assert not found.sound and re.search(why, " ".join(found.problems))


def test_tables_that_disagree_with_the_files(tmp_path: Path) -> None:
    path = dcp(tmp_path / "step-1.dcp")
    original = (path / ".metadata").read_bytes()

    def lie(change: Callable[[Any], None]) -> str:
        table = pickle.loads(original)
        change(table)
        (path / ".metadata").write_bytes(pickle.dumps(table))
        return " ".join(inspect(path).problems)

    def entry(table: Any) -> Any:
        return table.state_dict_metadata["model.0.weight"]

    assert "is not the float64 tensor" in lie(lambda t: setattr(entry(t).properties, "dtype", torch.float64))
    assert "is not the float32 tensor" in lie(lambda t: setattr(entry(t).chunks[0], "sizes", torch.Size((8, 16))))
    assert "declared and not stored" in lie(
        lambda t: entry(t).chunks.append(dcp_metadata.ChunkStorageMetadata(torch.Size((99, 0)), torch.Size((1, 1))))
    )
    assert "without being declared" in lie(lambda t: t.state_dict_metadata.pop("model.0.weight"))
    assert "not the metadata" in lie(lambda t: setattr(t, "storage_data", None))
    (path / ".metadata").write_bytes(pickle.dumps([1, 2]))
    assert "not the metadata" in inspect(path).problems[0]


STATES = {
    "deep": b"[" * 200_000,
    "deep object": b'{"state":' * 50_000,
    "list": b"[1, 2]",
    "no state": b"{}",
    "state of another type": b'{"state": [1]}',
    "noise": b"\x80\x04nonsense",
    "huge number": b'{"state": {"a": ' + b"9" * 10_000 + b"}}",
}


@pytest.mark.parametrize("what", STATES)
def test_plain_state_of_another_shape(what: str, tmp_path: Path) -> None:
    path = dcp(tmp_path / "step-1.dcp")
    (path / "state-0.json").write_bytes(STATES[what])
    assert inspect(path).problems[0].startswith("state-0.json: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("world_size", "two"), ("step", -1), ("role", 5), ("contents", None), ("discarded", 1)),
        *(("files", {"x": {"bytes": "1", "sha256": ""}}), ("files", [1])),
        ("files", {"../x": {"bytes": 1, "sha256": ""}}),
        *(("sections", 1), ("format", 99), ("surplus", 1)),
    ],
)
def test_a_manifest_with_values_of_the_wrong_kind(own: Path, key: str, value: object) -> None:
    keys = json.loads((own / "checkpoint.json").read_text()) | {key: value}
    keys.pop("checksum")
    canonical = json.dumps(keys, sort_keys=True, separators=(",", ":"))
    keys["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    (own / "checkpoint.json").write_text(json.dumps(keys))
    problems = inspect(own).problems
    assert problems and "checkpoint.json" in problems[0] and "checksum" not in problems[0]


@pytest.mark.parametrize("name", [".metadata", "checkpoint.json"])
def test_tables_that_are_links_out_of_the_checkpoint(own: Path, name: str, tmp_path: Path) -> None:
    (own / name).rename(tmp_path / "elsewhere")
    (own / name).symlink_to(tmp_path / "elsewhere")
    assert "leads outside" in inspect(own).problems[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = dcp(tmp_path / "step-1.dcp")
    (path / ".metadata").unlink()
    os.mkfifo(path / ".metadata")
    assert inspect(path).problems == (".metadata: is no regular file",)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\3\4" + bytes(100), b"\x80", b"hello", b"\x80\x02K\x01."])
def test_files_that_are_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "step-1.pt"
    path.write_bytes(content)
    assert len(inspect(path).problems) == 1


def test_a_legacy_file_that_was_cut_short(tmp_path: Path) -> None:
    path = saved_as("legacy", tmp_path, {"w": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:-40])
    assert "cut short" in inspect(path).problems[0]


@pytest.mark.heavy
def test_three_hundred_damaged_checkpoints(own: Path, tmp_path: Path) -> None:
    """Never a traceback, never a hang, and damage in what counts is always noticed."""
    chance = random.Random(7)
    files = sorted(file for file in own.iterdir() if file.is_file())
    slowest = 0.0
    for number in range(300):
        victim = tmp_path / "victim.dcp"
        shutil.copytree(own, victim)
        file = victim / chance.choice(files).name
        if number % 3 == 0:  # without the manifest, whose checksums would notice first
            (victim / "checkpoint.json").unlink()
        if file.exists():
            file.write_bytes(mutated(file.read_bytes(), chance))
        begun = time.perf_counter()
        found = inspect(victim)
        slowest = max(slowest, time.perf_counter() - begun)
        assert (
            found.kind == "dcp"
            or not found.sound
            or all((victim / other.name).read_bytes() == other.read_bytes() for other in files)
        )
        shutil.rmtree(victim)
    assert slowest < 5


def mutated(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    match chance.randrange(5):
        case 0:
            return flipped(data, at, chance.randrange(8))
        case 1:
            return data[:at]
        case 2:
            return data[:at] + chance.randbytes(chance.randrange(1, 9)) + data[at:]
        case 3:
            return data[:at] + data[at + chance.randrange(1, 50) :]
        case _:
            return data[:at] + chance.randbytes(4) + data[at + 4 :]


WATCHED = """
import resource, sys
from postmortem.checkpoint.inspection import inspect
import numpy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = inspect(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert found.sound and found.nonfinite == {"model.w0": 1}, found
assert "torch" not in sys.modules
print((after - before) * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_checkpoint(kind: str, tmp_path: Path) -> None:
    values = {"model": {f"w{i}": torch.ones(10 * 2**20) for i in range(2)}}
    values["model"]["w0"][12345] = math.nan
    path = saved_as(kind, tmp_path, values)
    done = subprocess.run([sys.executable, "-c", WATCHED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    limit = 90 if kind == "legacy" else 25  # MiB; a legacy file's pickles may take up to 64
    assert int(done.stdout) < limit * 2**20


@pytest.mark.slow
def test_three_hundred_megabytes_in_little_memory(tmp_path: Path) -> None:
    values = {"model": {f"w{i}": torch.ones(10 * 2**20) for i in range(8)}}
    values["model"]["w0"][12345] = math.nan
    path = saved_as("dcp", tmp_path, values)
    assert sum(file.stat().st_size for file in path.iterdir()) > 300e6
    done = subprocess.run([sys.executable, "-c", WATCHED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 25 * 2**20
