"""The allow-list of the restricted unpickler: every global that a checkpoint may name, and the inert record for it.

Everything here only stores its arguments. Records are hashed by identity, so that no pickle can make a hash expensive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

_MOST_DIMENSIONS = 64


@dataclass(frozen=True, eq=False)
class InertDType:
    """A torch dtype by name: `float32`, `bfloat16`, `float8_e4m3fn`."""

    name: str


@dataclass(frozen=True, eq=False)
class InertStorageType:
    """A torch storage class; `dtype` is None if the tensor itself names the type of its elements."""

    dtype: str | None


@dataclass(frozen=True, eq=False)
class InertStorage:
    """Bytes in another place of the file: `numel` elements of `dtype` (bytes if it is None), named `key`."""

    dtype: str | None
    key: str
    numel: int


@dataclass(frozen=True, eq=False)
class InertTensor:
    """A tensor: its storage, and its offset, size and stride in elements. `dtype` is the name of torch's dtype."""

    storage: object
    offset: object
    size: object
    stride: object
    dtype: str | None


@dataclass(eq=False)
class InertObject:
    """An instance of an allow-listed class: its arguments, and the state that it was given. Hashed by identity."""

    name: str
    args: tuple[object, ...] = ()
    state: object = None

    def get(self, field: str) -> object:
        """An entry of the state, if that is a mapping; else None."""
        return cast(dict[object, object], self.state).get(field) if isinstance(self.state, dict) else None


@dataclass(frozen=True, eq=False)
class _Class:
    """Stands for a class that makes `InertObject` instances."""

    name: str

    def __call__(self, *args: object) -> InertObject:
        return InertObject(self.name, args)


class Dictionary(dict[object, object]):
    """`OrderedDict`, whose instances may be given attributes, too (a module's state has `_metadata`)."""

    def __setstate__(self, state: object) -> None:
        """Ignore the attributes: nothing here needs them."""


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> InertTensor:
    return InertTensor(storage, offset, size, stride, storage.dtype if isinstance(storage, InertStorage) else None)


def _typed_tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> InertTensor:
    dtype = rest[2]  # after requires_grad and the backward hooks
    return InertTensor(storage, offset, size, stride, dtype.name if isinstance(dtype, InertDType) else None)


def _size(numbers: object = ()) -> tuple[int, ...]:
    size = sizes(numbers)
    if size is None:
        raise TypeError("a size that is not a short tuple of whole numbers")
    return size


def sizes(value: object) -> tuple[int, ...] | None:
    """`value` as the shape, offsets or strides of a tensor; None if it cannot be that."""
    if not isinstance(value, tuple) or len(cast(tuple[object, ...], value)) > _MOST_DIMENSIONS:
        return None
    numbers = [item for item in cast(tuple[object, ...], value) if type(item) is int and 0 <= item < 2**63]
    return tuple(numbers) if len(numbers) == len(cast(tuple[object, ...], value)) else None


def _first(value: object, *_: object) -> object:
    return value


DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128", "bool"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
_METADATA = "torch.distributed.checkpoint.metadata"
_CLASSES = {
    _METADATA: (
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "_StoragePrefix"),
    "torch.serialization": ("_get_layout",),
    "torch": ("device",),
    "pathlib": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "pathlib._local": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"),
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "_codecs": ("encode",),
    "builtins": ("set", "frozenset", "bytes", "bytearray", "complex"),
    "__builtin__": (
        "set",
        "frozenset",
        "bytes",
        "bytearray",
        "complex",
    ),  # their names in protocol 2, which torch.save uses
}

ALLOWED_GLOBALS: Mapping[tuple[str, str], Any] = MappingProxyType(
    {(module, name): _Class(name) for module, names in _CLASSES.items() for name in names}
    | {("torch", name): InertDType(name) for name in DTYPES}
    | {("torch", name): InertStorageType(dtype) for name, dtype in _STORAGES.items()}
    | {
        ("torch.storage", "UntypedStorage"): InertStorageType(None),
        ("torch", "Size"): _size,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
        ("torch._utils", "_rebuild_parameter"): _first,
        ("torch._utils", "_rebuild_parameter_with_state"): _first,
        ("collections", "OrderedDict"): Dictionary,
    }
)
"""(module, name) → its inert replacement: the whole allow-list."""
