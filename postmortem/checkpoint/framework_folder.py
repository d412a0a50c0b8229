"""The layout of a folder in which a framework keeps each part of its state in a file of its own, as Hugging Face does:
weights in safetensors or torch.save files, `optimizer.pt`, `scheduler.pt`, `rng_state.pth`.

safetensors: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from postmortem.checkpoint.allowlist import sizes
from postmortem.checkpoint.dcp_tables import is_name
from postmortem.checkpoint.layout import METADATA, Layout, dcp_layout, open_part, torch_layout
from postmortem.checkpoint.streaming import FileSpan, TensorBytes, item_size
from postmortem.errors import UnreadableInput
from postmortem.run.places import Places
from postmortem.small_file import parse_json
from postmortem.text import plain

_TORCH = (".bin", ".ckpt", ".pt", ".pth")
_NO_STATE = frozenset({"training_args.bin"})  # settings, as a pickle of the framework's own classes
_MOST_HEADER = 64 * 2**20  # bytes
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def state_files(folder: Path) -> list[Path]:
    """The files in `folder` that contain state, sorted; none where no framework wrote it."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in (*_TORCH, ".safetensors") and file.name not in _NO_STATE and not file.name.startswith(".")
    )


def folder_layout(folder: Path, files: list[Path]) -> Layout:
    """The layout of `files`, and of sharded parts in folders of their own; the stem of each is the first part of its
    tensors' names. Damage, and state that is not read, is among its problems."""
    layout, places = Layout(), Places(folder)
    sharded = [metadata.parent for metadata in sorted(folder.glob(f"*/{METADATA}"))]
    others = [f for suffix in (*_TORCH, ".safetensors") for f in folder.glob(f"*/**/*{suffix}")]
    layout.problems += [
        f"{plain(file.relative_to(folder))}: its format is not read"
        for file in others[:1]
        if not any(file.is_relative_to(shards) for shards in sharded)
    ]
    for file in (*files, *sharded):
        try:
            places.find(file.name, folder.name)
            part = _one_layout(file)
        except UnreadableInput as error:
            layout.problems.append(str(error))
            continue
        layout.tensors |= {f"{file.stem}.{name}" for name in part.tensors}
        layout.others |= {f"{file.stem}.{name}" for name in part.others}
        layout.problems += part.problems
        for path, spans in part.pieces.items():
            layout.pieces[path] = [_renamed(span, file.stem) for span in spans]
    return layout


def _one_layout(file: Path) -> Layout:
    if file.is_dir():
        return dcp_layout(Places(file))
    return safetensors_layout(file) if file.suffix == ".safetensors" else torch_layout(file)


def _renamed(span: FileSpan, stem: str) -> FileSpan:
    views = tuple(TensorBytes(f"{stem}.{view.name}", view.dtype, view.first, view.last) for view in span.views)
    return FileSpan(span.name, span.start, span.size, span.crc, views)


def safetensors_layout(path: Path) -> Layout:
    """The layout of a safetensors file.

    Raises:
        UnreadableInput: it is none, or a tensor in it reaches beyond its end or into another.
    """
    shown = plain(path.name)
    with open_part(path, shown) as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _MOST_HEADER):
            raise UnreadableInput("no safetensors file: its header is longer than the file.", file=shown)
        try:
            header: object = parse_json(file.read(length).decode())
        except ValueError as error:
            raise UnreadableInput("no safetensors file: its header is no JSON.", file=shown) from error
    if not isinstance(header, dict):
        raise UnreadableInput("no safetensors file: its header is no JSON object.", file=shown)
    spans = sorted(_spans(cast(dict[str, Any], header), 8 + length, size, shown), key=lambda span: span.start)
    for before, span in pairwise(spans):
        if span.start < before.start + before.size:
            raise UnreadableInput(f"{span.views[0].name} overlaps another tensor.", file=shown)
    return Layout({path: spans}, {span.views[0].name for span in spans})


def _spans(header: Mapping[str, Any], start: int, size: int, shown: str) -> Iterator[FileSpan]:
    for name, about in header.items():
        if name == "__metadata__":
            continue
        fields: Mapping[str, Any] = cast(dict[str, Any], about) if isinstance(about, dict) else {}
        shape, ends = _numbers(fields.get("shape")), _numbers(fields.get("data_offsets"))
        dtype = _DTYPES.get(str(fields.get("dtype")))
        width = item_size(dtype)
        if not is_name(name) or dtype is None or width is None or shape is None or ends is None or len(ends) != 2:
            raise UnreadableInput(f"describes {plain(name, 80)} in an unknown way.", file=shown)
        first, last = ends
        if last - first != width * math.prod(shape) or start + last > size:
            raise UnreadableInput(f"{plain(name, 80)} reaches beyond its bytes: it was cut short.", file=shown)
        yield FileSpan(shown, start + first, last - first, None, (TensorBytes(name, dtype, 0, last - first),))


def _numbers(value: object) -> tuple[int, ...] | None:
    """A JSON list of whole numbers from 0 on."""
    return sizes(tuple(cast(list[object], value))) if isinstance(value, list) else None
