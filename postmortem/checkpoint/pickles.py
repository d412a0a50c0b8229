"""Reading a stranger's pickle without running any of it.

A pickle is a program for a stack machine. This is that machine with nothing in it that could run: a global must stand
on an allow-list, only what came from that list may be called, and the list leads to the inert records of `shadows`.
Opcodes that checkpoints do not use (INST, OBJ, EXT, NEWOBJ_EX, buffers, text forms) are refused. What a pickle may cost
is bounded: its length, its opcodes, its memo slots (filled in order), and the keys of its dictionaries, which are text
or small numbers, because Python's hashes of other things can be made to collide, or to recurse until the process dies.

The C unpickler with a `find_class` would be quicker, but it takes memory for sizes and memo slots that a pickle merely
claims, and hashes whatever it is given.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, cast

from postmortem.checkpoint.allowlist import SHADOWS, InertDType, InertObject
from postmortem.errors import UnreadableInput
from postmortem.text import plain

__all__ = ["LIMIT", "SHADOWS", "InertDType", "InertObject", "Refused", "load_at", "safe_load"]

LIMIT = 64 * 2**20
"""Bytes of one pickle. A checkpoint's tables take about 250 bytes for each saved piece of a tensor."""
_OPCODES = 16_000_000
_LARGEST_KEY = 2**60


class Refused(UnreadableInput):
    """A pickle that names, does or claims what no checkpoint needs."""


def safe_load(
    data: bytes,
    classes: Mapping[tuple[str, str], Any] = SHADOWS,
    *,
    file: str = "pickle",
    persistent: Callable[[object], object] | None = None,
) -> Any:
    """The object that a pickle of at most `LIMIT` bytes describes, made of `classes` and plain types only.

    `classes` maps allow-listed globals on what is to stand for them: on inert records, or (when a checkpoint is loaded
    that was inspected before) on torch's own. `persistent` answers persistent ids, the storages of torch.save.

    Raises:
        Refused: a global that `classes` lacks, an opcode that no checkpoint uses, a pickle that is damaged or too
            large. `file` names it in the message.
    """
    return load_at(data, 0, classes, file=file, persistent=persistent)[0]


def load_at(
    data: bytes,
    start: int,
    classes: Mapping[tuple[str, str], Any] = SHADOWS,
    *,
    file: str = "pickle",
    persistent: Callable[[object], object] | None = None,
) -> tuple[Any, int]:
    """(object, offset after it) of the pickle that begins at `start`: some files hold one after another."""
    if len(data) > LIMIT:
        raise Refused(f"a pickle of more than {LIMIT >> 20} MiB.", file=file)
    machine = _Machine(data, start, classes, persistent)
    try:
        return machine.run(), machine.at
    except _Bad as bad:
        raise Refused(f"{bad}. Nothing of it was run.", file=file) from None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, struct.error, RecursionError) as error:
        raise Refused(f"a damaged pickle ({plain(error, 80)}). Nothing of it was run.", file=file) from error


class _Bad(Exception):
    """Why the machine stopped."""


class _Machine:
    """The stack machine, over `data` from `at` on."""

    def __init__(
        self,
        data: bytes,
        at: int,
        classes: Mapping[tuple[str, str], Any],
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.data, self.at = data, at
        self.classes, self.persistent = classes, persistent
        self.callable = {id(value) for value in classes.values() if callable(value)}
        self.instances = (*(value for value in classes.values() if isinstance(value, type)), InertObject)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def run(self) -> Any:
        left = _OPCODES
        while left:
            opcode = self.take(1)[0]
            if opcode == _STOP:
                return self.stack.pop()
            step = _STEPS.get(opcode)
            if step is None:
                raise _Bad(f"holds the opcode {_name(opcode)}, which no checkpoint uses")
            step(self)
            left -= 1
        raise _Bad(f"more than {_OPCODES:,} operations")

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise _Bad("cut short, or claims more than it holds")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, form: str, size: int) -> int:
        return struct.unpack(form, self.take(size))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.at, self.at + 1000)
        return self.take(end + 1 - self.at)[:-1].decode()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken off the stack."""
        start = self.marks.pop()
        if start > len(self.stack):
            raise _Bad("damaged: its marks and its stack disagree")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        if count > len(self.stack):
            raise IndexError("the stack is empty")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def remember(self, slot: int) -> None:
        if slot > len(self.memo):
            raise _Bad(f"fills memo slot {slot} before slot {len(self.memo)}")
        self.memo[slot : slot + 1] = [self.stack[-1]]

    def named(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _Bad("names a global by something that is no text")
        if (module, name) not in self.classes:
            shown = plain(f"{module[:100]}.{name[:100]}")
            raise _Bad(f"names {shown}, which is not on the list of what a checkpoint may hold")
        self.push(self.classes[module, name])

    def stack_global(self) -> None:
        name = self.stack.pop()
        self.named(self.stack.pop(), name)

    def call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if id(function) not in self.callable or not isinstance(arguments, tuple):
            raise _Bad("calls what is no listed class or function")
        self.push(function(*cast(tuple[Any, ...], arguments)))

    def instance(self) -> None:
        arguments = self.stack.pop()
        cls = self.stack.pop()
        if id(cls) not in self.callable or not isinstance(arguments, tuple):
            raise _Bad("makes an instance of what is no listed class")
        made = cast(tuple[Any, ...], arguments)
        self.push(cls.__new__(cls, *made) if isinstance(cls, type) else cls(*made))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, self.instances) or isinstance(target, type):
            raise _Bad(f"gives a state to a {type(target).__name__}")
        if isinstance(target, InertObject):
            target.state = state
        elif hasattr(type(target), "__setstate__"):
            target.__setstate__(state)
        elif isinstance(state, dict):
            vars(target).update({str(key): value for key, value in cast(dict[object, object], state).items()})
        else:
            raise _Bad(f"gives a {type(target).__name__} a state that is no mapping")

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _Bad("appends to what is no list")
        cast(list[Any], target).extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise _Bad("sets items of what is no dictionary")
        for key in values[::2]:
            small = isinstance(key, int) and -_LARGEST_KEY < key < _LARGEST_KEY
            if not (small or key is None or isinstance(key, (str, bytes, *self.instances))):
                raise _Bad(f"has a dictionary with a {type(key).__name__} for a key")
        cast(dict[Any, Any], target).update(zip(values[::2], values[1::2], strict=True))

    def storage(self) -> None:
        if self.persistent is None:
            raise _Bad("refers to something outside itself")
        self.push(self.persistent(self.stack.pop()))

    def pair(self) -> list[Any]:
        value = self.stack.pop()
        return [self.stack.pop(), value]

    def proto(self) -> None:
        if self.take(1)[0] > pickle.HIGHEST_PROTOCOL:
            raise _Bad("of a pickle protocol that is not known")

    def frame(self) -> None:
        if self.number("<Q", 8) > len(self.data) - self.at:
            raise _Bad("cut short, or claims more than it holds")


def _text(machine: _Machine, form: str, size: int) -> None:
    machine.push(machine.take(machine.number(form, size)).decode("utf-8", "surrogatepass"))


def _bytes(machine: _Machine, form: str, size: int) -> None:
    machine.push(machine.take(machine.number(form, size)))


_STOP = pickle.STOP[0]
_STEPS: dict[int, Callable[[_Machine], None]] = {
    opcode[0]: step
    for opcode, step in {
        pickle.PROTO: _Machine.proto,
        pickle.FRAME: _Machine.frame,
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
        pickle.STACK_GLOBAL: _Machine.stack_global,
        pickle.REDUCE: _Machine.call,
        pickle.NEWOBJ: _Machine.instance,
        pickle.BUILD: _Machine.build,
        pickle.BINPERSID: _Machine.storage,
    }.items()
}


def _name(opcode: int) -> str:
    """How the pickle module calls an opcode, such as INST or EXT1."""
    import pickletools

    return next((known.name for known in pickletools.opcodes if known.code == chr(opcode)), f"0x{opcode:02x}")
