"""Reads and writes the DCP files of a checkpoint, through DCP's planner and storage interfaces.

`dcp.save` and `dcp.load` use the same interfaces. Used from here, a failure on one rank ends the step on all ranks
(`Ranks`), a single process needs no process group and gets no warning about that, and every pickle goes through the
restricted unpickler.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from postmortem.checkpoint import pickles
from postmortem.checkpoint.ranks import Ranks
from postmortem.errors import UnreadableInput
from postmortem.run.manifest import inside
from postmortem.text import plain

METADATA = ".metadata"


class _Writer(FileSystemWriter):
    """Leaves the path and a random id out of `.metadata`: the same state gives the same bytes in any place."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


def write(folder: Path, tensors: Mapping[str, Any], ranks: Ranks) -> None:
    """Write a nested mapping of CPU tensors into the existing `folder`, each rank its shards, synchronized to disk."""
    writer, planner = _Writer(folder), DefaultSavePlanner()

    def plan() -> Any:
        planner.set_up_planner(dict(tensors), writer.storage_meta(), ranks.first)
        writer.set_up_storage_writer(ranks.first)
        return writer.prepare_local_plan(planner.create_local_plan())

    local_plans = ranks.run_on_all_ranks(plan)
    # Every rank makes the same global plan from the same local plans, so no plan has to be sent.
    plans, table = planner.create_global_plan(local_plans)
    own_plan = planner.finish_plan(writer.prepare_global_plan(plans)[ranks.rank])
    results = ranks.run_on_all_ranks(lambda: writer.write_data(own_plan, planner).wait())
    if ranks.first:
        writer.finish(table, results)


class _Reader(FileSystemReader):
    """Reads `.metadata` by the restricted unpickler, and refuses files outside the checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        folder = Path(cast(Path, self.path))
        file = folder / METADATA
        where = plain(file, 1000)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UnreadableInput(
                "cannot be read: the save was cut short, or this is no checkpoint.", file=where
            ) from error
        table = pickles.safe_load(data, _CLASSES, file=where)
        if not isinstance(table, Metadata) or not isinstance(table.storage_data, dict):
            raise UnreadableInput("does not contain the table of a checkpoint.", file=where)
        for piece in cast(dict[Any, Any], table.storage_data).values():
            inside(folder, str(piece.relative_path), where)
            if getattr(piece, "transform_descriptors", None):
                raise UnreadableInput("needs a transformation of the stored data; that is not supported.", file=where)
        return table


class _Planner(DefaultLoadPlanner):
    """Loads entries that are not tensors only with torch's restricted unpickler."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.original_state_dict[read_item.dest_index.fqn] = torch.load(value, weights_only=True)


class Shards:
    """The DCP files of one checkpoint, open for reading."""

    def __init__(self, folder: Path) -> None:
        self._reader = _Reader(folder)
        self._where = plain(folder, 1000)
        self._table = self._reader.read_metadata()
        self._reader.set_up_storage_reader(self._table, True)

    def paths(self) -> dict[str, tuple[str | int, ...]]:
        """Name of every entry → its path in the nested state."""
        paths: Mapping[str, Any] = self._table.planner_data or {}
        return {name: tuple(paths.get(name, (name,))) for name in self._table.state_dict_metadata}

    def empty(self, name: str, like: Tensor | None = None) -> Any:
        """An empty tensor to read `name` into: sharded as `like` if that has the same shape, otherwise whole and on the
        CPU; None for an entry that is not a tensor.

        Raises:
            UnreadableInput: the checkpoint has no such entry.
        """
        entry = self._table.state_dict_metadata.get(name)
        if entry is None:
            raise UnreadableInput(f"has no tensor {plain(name)!r}.", file=self._where)
        if not isinstance(entry, TensorStorageMetadata):
            return None
        if like is None or like.shape != entry.size:
            return torch.empty(entry.size, dtype=entry.properties.dtype)
        return torch.empty_like(like, dtype=entry.properties.dtype, requires_grad=False)

    def read(self, targets: dict[str, Any]) -> None:
        """Read into `targets` (name → result of `empty`), in place; this waits for no other rank."""
        planner = _Planner(flatten_state_dict=False)
        planner.set_up_planner(targets, self._table, True)
        plan = planner.finish_plan(planner.create_local_plan())
        self._reader.read_data(self._reader.prepare_local_plan(plan), planner).wait()


def _layout(name: str) -> torch.layout:
    return {"torch.strided": torch.strided}[name]


def _real_global(module: str, name: str) -> Any:
    """The real object for an allow-listed global, in a table that is used for loading."""
    for torch_module in (metadata, filesystem):
        if module == torch_module.__name__:
            return getattr(torch_module, name)
    inert = pickles.ALLOWED_GLOBALS[module, name]
    if isinstance(inert, pickles.InertDType):
        return getattr(torch, name, inert)
    return {"Size": torch.Size, "_get_layout": _layout}.get(name, inert)


_CLASSES = {(module, name): _real_global(module, name) for module, name in pickles.ALLOWED_GLOBALS}
