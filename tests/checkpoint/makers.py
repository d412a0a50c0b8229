"""Checkpoints to look at, and pickles that want to run something."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any


def state(seed: int = 0) -> dict[str, Any]:
    """A small training state: two layers, AdamW's moments, RNG, a loader's position, a scheduler."""
    import torch

    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 8)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": {"torch": torch.get_rng_state()},
        "dataloader": {"position": 3},
        "lr_scheduler": {"last_epoch": 3},
    }


def dcp(folder: Path, values: dict[str, Any] | None = None) -> Path:
    """A plain DCP checkpoint."""
    import warnings

    from torch.distributed import checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(state() if values is None else values, checkpoint_id=folder, no_dist=True)
    return folder


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def gadgets(canary: Path) -> dict[str, bytes]:
    """Pickles by name, each of which would make the file `canary`, take the memory, or never end."""
    command = text(f"touch {canary}")
    python = text(f"open({str(canary)!r}, 'w')")
    start, stop = pickle.PROTO + b"\x04", pickle.STOP
    stacked = text("builtins") + text("eval") + pickle.STACK_GLOBAL
    attribute = called(name("builtins", "getattr"), name("os", "path"), text("system"))
    empty_set_state = name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    bodies = {
        "REDUCE os.system": called(name("os", "system"), command),
        "REDUCE posix.system": called(name("posix", "system"), command),
        "REDUCE subprocess.Popen": called(name("subprocess", "Popen"), command),
        "REDUCE builtins.exec": called(name("builtins", "exec"), python),
        "STACK_GLOBAL builtins.eval": stacked + pickle.MARK + python + pickle.TUPLE + pickle.REDUCE,
        "getattr chain": attribute + pickle.MARK + command + pickle.TUPLE + pickle.REDUCE,
        "dotted name": text("collections") + text("OrderedDict.__init__.__globals__") + pickle.STACK_GLOBAL,
        "copyreg": called(name("copyreg", "__newobj__"), name("subprocess", "Popen"), command),
        "copyreg._reconstructor": called(
            name("copyreg", "_reconstructor"), name("code", "InteractiveInterpreter"), name("builtins", "object")
        ),
        "operator.attrgetter": called(name("operator", "attrgetter"), text("system")),
        "torch.load": called(name("torch.serialization", "load"), command),
        "BUILD __setstate__": name("logging", "Logger") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + python + pickle.BUILD,
        "BUILD of a list": pickle.EMPTY_LIST + pickle.EMPTY_DICT + pickle.BUILD,
        "BUILD of a class": name("collections", "OrderedDict") + pickle.EMPTY_DICT + pickle.BUILD,
        "INST": pickle.MARK + command + b"ios\nsystem\n",
        "OBJ": pickle.MARK + name("os", "system") + command + pickle.OBJ,
        "NEWOBJ": name("subprocess", "Popen") + pickle.MARK + command + pickle.TUPLE + pickle.NEWOBJ,
        "NEWOBJ_EX": name("subprocess", "Popen") + pickle.EMPTY_TUPLE + pickle.EMPTY_DICT + pickle.NEWOBJ_EX,
        "calling data": called(empty_set_state, command),
        "calling text": called(text("os.system"), command),
        "PERSID": b"Pcmd\n",
        "BINPERSID": command + pickle.BINPERSID,
        "EXT1": pickle.EXT1 + b"\x01",
        "EXT4": pickle.EXT4 + b"\x01\x00\x00\x00",
        "memo bomb": pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff",
        "claimed bytes": pickle.BINBYTES8 + struct.pack("<Q", 2**62),
        "claimed text": pickle.BINUNICODE8 + struct.pack("<Q", 2**62),
        "claimed array": pickle.BYTEARRAY8 + struct.pack("<Q", 2**62),
        "giant frame": pickle.FRAME + struct.pack("<Q", 2**63),
        "huge LONG": pickle.LONG4 + struct.pack("<I", 2**20) + b"\x7f" * 2**20,
        "text LONG": b"L" + b"9" * 10**6 + b"L\n",
        "deep key": pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 10**5 + pickle.NONE + pickle.SETITEM,
        "endless key": pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + (pickle.MEMOIZE + pickle.BINGET + b"\0") * 2
        + pickle.TUPLE2 + pickle.NONE + pickle.SETITEM,
        "colliding keys": pickle.EMPTY_DICT + pickle.MARK
        + b"".join(pickle.LONG1 + b"\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + pickle.NONE for i in range(9))
        + pickle.SETITEMS,
        "cut short": pickle.BINUNICODE + b"\xff",
        "no stack": pickle.APPEND,
        "no mark": pickle.TUPLE,
        "mark above the stack": pickle.NONE + pickle.MARK + pickle.REDUCE,
    }  # fmt: skip
    return {what: start + body + stop for what, body in bodies.items()}


GADGETS = tuple(gadgets(Path("canary")))


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """`data` with one bit turned over."""
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
