"""Reads an untrusted pickle without running any of it.

A pickle is a program for a stack machine. This is that machine without anything dangerous: a global must be on an
allow-list, only objects from that list may be called, and the list leads to the inert records of `allowlist`. Opcodes
that checkpoints do not use (INST, OBJ, EXT, NEWOBJ_EX, buffers, text forms) are refused. The cost of a pickle is
bounded: its length, its opcodes, its memo slots (filled in order), and the keys of its dictionaries, which must be text
or small numbers: Python's hashes of other objects can be made to collide, or to recurse until the process dies.

The C unpickler with a `find_class` would be faster, but it allocates memory for sizes and memo slots that a pickle only
claims, and hashes any object.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, cast

from postmortem.checkpoint.allowlist import ALLOWED_GLOBALS, InertDType, InertObject
from postmortem.errors import UnreadableInput
from postmortem.text import plain

__all__ = ["ALLOWED_GLOBALS", "LIMIT", "InertDType", "InertObject", "RefusedPickle", "load_at", "safe_load"]

LIMIT = 64 * 2**20
"""Bytes of one pickle. A checkpoint's tables take about 250 bytes for each saved piece of a tensor."""
_OPCODES = 16_000_000
_LARGEST_KEY = 2**60


class RefusedPickle(UnreadableInput):
    """A pickle that names, does or claims something that no checkpoint needs."""


def safe_load(
    data: bytes,
    classes: Mapping[tuple[str, str], Any] = ALLOWED_GLOBALS,
    *,
    file: str = "pickle",
    persistent: Callable[[object], object] | None = None,
) -> Any:
    """The object that a pickle of at most `LIMIT` bytes describes, made of `classes` and plain types only.

    `classes` maps allow-listed globals to their replacements: to inert records, or (for loading a checkpoint that was
    inspected before) to torch's own objects. `persistent` resolves persistent ids, the storages of torch.save.

    Raises:
        RefusedPickle: a global that `classes` lacks, an opcode that no checkpoint uses, a pickle that is damaged or too
            large. `file` names it in the message.
    """
    return load_at(data, 0, classes, file=file, persistent=persistent)[0]


def load_at(
    data: bytes,
    start: int,
    classes: Mapping[tuple[str, str], Any] = ALLOWED_GLOBALS,
    *,
    file: str = "pickle",
    persistent: Callable[[object], object] | None = None,
) -> tuple[Any, int]:
    """(object, offset after it) of the pickle that begins at `start`: some files hold one after another."""
    if len(data) > LIMIT:
        raise RefusedPickle(f"a pickle of more than {LIMIT >> 20} MiB.", file=file)
    machine = _PickleMachine(data, start, classes, persistent)
    try:
        return machine.run(), machine.position
    except _PickleError as error:
        raise RefusedPickle(f"{error}. Nothing of it was run.", file=file) from None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, struct.error, RecursionError) as error:
        raise RefusedPickle(f"a damaged pickle ({plain(error, 80)}). Nothing of it was run.", file=file) from error


class _PickleError(Exception):
    """Why the machine stopped."""


class _PickleMachine:
    """The stack machine, which reads `data` from `position` on."""

    def __init__(
        self,
        data: bytes,
        position: int,
        classes: Mapping[tuple[str, str], Any],
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.data, self.position = data, position
        self.classes, self.persistent = classes, persistent
        self.callable = {id(value) for value in classes.values() if callable(value)}
        self.instances = (*(value for value in classes.values() if isinstance(value, type)), InertObject)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def run(self) -> Any:
        for _ in range(_OPCODES):
            opcode = self.take(1)[0]
            if opcode == _STOP:
                return self.stack.pop()
            step = _STEPS.get(opcode)
            if step is None:
                raise _PickleError(f"holds the opcode {_name(opcode)}, which no checkpoint uses")
            step(self)
        raise _PickleError(f"more than {_OPCODES:,} operations")

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise _PickleError("cut short, or claims more than it holds")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, form: str, size: int) -> int:
        return struct.unpack(form, self.take(size))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.position, self.position + 1000)
        return self.take(end + 1 - self.position)[:-1].decode()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """Remove and return everything above the last mark of the stack."""
        start = self.marks.pop()
        if start > len(self.stack):
            raise _PickleError("damaged: its marks and its stack disagree")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        if count > len(self.stack):
            raise IndexError("the stack is empty")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def remember(self, slot: int) -> None:
        if slot > len(self.memo):
            raise _PickleError(f"fills memo slot {slot} before slot {len(self.memo)}")
        self.memo[slot : slot + 1] = [self.stack[-1]]

    def named(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _PickleError("names a global by something that is not text")
        if (module, name) not in self.classes:
            shown = plain(f"{module[:100]}.{name[:100]}")
            raise _PickleError(f"names {shown}, which is not on the list of what a checkpoint may hold")
        self.push(self.classes[module, name])

    def stack_global(self) -> None:
        name = self.stack.pop()
        self.named(self.stack.pop(), name)

    def call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if id(function) not in self.callable or not isinstance(arguments, tuple):
            raise _PickleError("calls something that is not on the list of classes and functions")
        self.push(function(*cast(tuple[Any, ...], arguments)))

    def instance(self) -> None:
        arguments = self.stack.pop()
        cls = self.stack.pop()
        if id(cls) not in self.callable or not isinstance(arguments, tuple):
            raise _PickleError("makes an instance of something that is not on the list of classes")
        values = cast(tuple[Any, ...], arguments)
        self.push(cls.__new__(cls, *values) if isinstance(cls, type) else cls(*values))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, self.instances) or isinstance(target, type):
            raise _PickleError(f"gives a state to a {type(target).__name__}")
        if isinstance(target, InertObject):
            target.state = state
        elif hasattr(type(target), "__setstate__"):
            target.__setstate__(state)
        elif isinstance(state, dict):
            vars(target).update({str(key): value for key, value in cast(dict[object, object], state).items()})
        else:
            raise _PickleError(f"gives a {type(target).__name__} a state that is not a mapping")

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _PickleError("appends to something that is not a list")
        cast(list[Any], target).extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise _PickleError("sets items of something that is not a dictionary")
        for key in values[::2]:
            small = isinstance(key, int) and -_LARGEST_KEY < key < _LARGEST_KEY
            if not (small or key is None or isinstance(key, (str, bytes, *self.instances))):
                raise _PickleError(f"has a dictionary with a {type(key).__name__} for a key")
        cast(dict[Any, Any], target).update(zip(values[::2], values[1::2], strict=True))

    def storage(self) -> None:
        if self.persistent is None:
            raise _PickleError("refers to something outside itself")
        self.push(self.persistent(self.stack.pop()))

    def pair(self) -> list[Any]:
        value = self.stack.pop()
        return [self.stack.pop(), value]

    def proto(self) -> None:
        if self.take(1)[0] > pickle.HIGHEST_PROTOCOL:
            raise _PickleError("has an unknown pickle protocol")

    def frame(self) -> None:
        if self.number("<Q", 8) > len(self.data) - self.position:
            raise _PickleError("cut short, or claims more than it holds")


def _text(machine: _PickleMachine, form: str, size: int) -> None:
    machine.push(machine.take(machine.number(form, size)).decode("utf-8", "surrogatepass"))


def _bytes(machine: _PickleMachine, form: str, size: int) -> None:
    machine.push(machine.take(machine.number(form, size)))


_STOP = pickle.STOP[0]
_STEPS: dict[int, Callable[[_PickleMachine], None]] = {
    opcode[0]: step
    for opcode, step in {
        pickle.PROTO: _PickleMachine.proto,
        pickle.FRAME: _PickleMachine.frame,
        pickle.MARK: lambda m: m.marks.append(len(m.stack)),
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.BININT: lambda m: m.push(m.number("<i", 4)),
        pickle.BININT1: lambda m: m.push(m.number("<B", 1)),
        pickle.BININT2: lambda m: m.push(m.number("<H", 2)),
        pickle.BINFLOAT: lambda m: m.push(m.number(">d", 8)),
        pickle.LONG1: lambda m: m.push(int.from_bytes(m.take(m.number("<B", 1)), "little", signed=True)),
        pickle.SHORT_BINUNICODE: lambda m: _text(m, "<B", 1),
        pickle.BINUNICODE: lambda m: _text(m, "<I", 4),
        pickle.BINUNICODE8: lambda m: _text(m, "<Q", 8),
        pickle.SHORT_BINBYTES: lambda m: _bytes(m, "<B", 1),
        pickle.BINBYTES: lambda m: _bytes(m, "<I", 4),
        pickle.BINBYTES8: lambda m: _bytes(m, "<Q", 8),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.TUPLE1: lambda m: m.tuple_of(1),
        pickle.TUPLE2: lambda m: m.tuple_of(2),
        pickle.TUPLE3: lambda m: m.tuple_of(3),
        pickle.TUPLE: lambda m: m.push(tuple(m.marked())),
        pickle.EMPTY_LIST: lambda m: m.push([]),
        pickle.APPEND: lambda m: m.append([m.stack.pop()]),
        pickle.APPENDS: lambda m: m.append(m.marked()),
        pickle.EMPTY_DICT: lambda m: m.push({}),
        pickle.SETITEM: lambda m: m.set_items(m.pair()),
        pickle.SETITEMS: lambda m: m.set_items(m.marked()),
        pickle.BINPUT: lambda m: m.remember(m.number("<B", 1)),
        pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I", 4)),
        pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
        pickle.BINGET: lambda m: m.push(m.memo[m.number("<B", 1)]),
        pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number("<I", 4)]),
        pickle.GLOBAL: lambda m: m.named(m.line(), m.line()),
        pickle.STACK_GLOBAL: _PickleMachine.stack_global,
        pickle.REDUCE: _PickleMachine.call,
        pickle.NEWOBJ: _PickleMachine.instance,
        pickle.BUILD: _PickleMachine.build,
        pickle.BINPERSID: _PickleMachine.storage,
    }.items()
}


def _name(opcode: int) -> str:
    """The pickle module's name of an opcode, such as INST or EXT1."""
    import pickletools

    return next((info.name for info in pickletools.opcodes if info.code == chr(opcode)), f"0x{opcode:02x}")
