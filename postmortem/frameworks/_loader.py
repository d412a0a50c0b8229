"""Finds the batches of a DataLoader by absolute index, in any order and as often as needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from postmortem.errors import UsageError
from postmortem.frameworks._restoring import restored_generators

_MAX_ORDERS = 2  # epochs whose order is kept in memory


class LoaderBatches:
    """The batches of `loader`: index i is what update i of a training without skips consumes.

    accumulate: batches of the loader per update. per_epoch: batches of the loader that are consumed per epoch, by
    default all of them. exhausts: whether the loop asks for a batch after the last one of an epoch, because torch's
    RandomSampler then draws from its generator once more.

    A map-style dataset is read at the rows that the loader's own sampler lists; a stream is read from its beginning,
    and again if an earlier batch is requested. The global random generators are not changed.
    """

    def __init__(
        self, loader: DataLoader[Any], accumulate: int = 1, per_epoch: int | None = None, *, exhausts: bool = True
    ) -> None:
        self._loader, self._accumulate, self._exhausts = loader, accumulate, exhausts
        self._is_stream = isinstance(loader.dataset, IterableDataset)
        self.per_epoch = None if self._is_stream else len(loader) if per_epoch is None else per_epoch
        self._orders: dict[int, list[Any]] = {}
        self._listed_epochs = 0  # epochs whose order was drawn from the loader's own generator
        self._checked = False
        self._samplers = _samplers(loader)
        self._generators = _generators(loader, self._samplers)
        self._stream: Iterator[Any] = iter(())
        self._stream_index = -1  # index of the stream's next batch; -1 before it is opened

    @property
    def updates_per_epoch(self) -> int | None:
        """Updates per epoch; None for a stream, whose length is unknown."""
        return None if self.per_epoch is None else math.ceil(self.per_epoch / self._accumulate)

    @property
    def draws(self) -> bool:
        """Whether torch's loader draws from the global generator when an epoch begins: a seed for its workers, even if
        it has none."""
        return self._loader.generator is None

    def parts(self, index: int) -> tuple[Any, ...]:
        """The micro-batches of the update at `index`.

        Raises:
            UsageError: the order of the data cannot be reproduced, or a stream ends before that batch.
        """
        with restored_generators():
            if self.updates_per_epoch is None:
                return self._read_stream(index)
            epoch, update = divmod(index, self.updates_per_epoch)
            first = update * self._accumulate
            return tuple(self._fetch(key) for key in self._epoch_order(epoch)[first : first + self._accumulate])

    def _fetch(self, key: Any) -> Any:
        dataset: Any = self._loader.dataset
        if self._loader.batch_sampler is None:
            return self._loader.collate_fn(dataset[key])
        get_items = getattr(dataset, "__getitems__", None)  # torch's own fetcher calls it
        return self._loader.collate_fn(get_items(key) if get_items else [dataset[row] for row in key])

    def _epoch_order(self, epoch: int) -> list[Any]:
        """Keys of the batches of an epoch, lists of rows."""
        if epoch not in self._orders:
            stateful = bool(self._generators) and not any(hasattr(sampler, "set_epoch") for sampler in self._samplers)
            if not stateful or epoch < self._listed_epochs:
                self._rewind()
            if not stateful:
                self._listed_epochs = epoch
            while self._listed_epochs <= epoch:
                self._orders[self._listed_epochs] = self._list_checked(self._listed_epochs)
                self._listed_epochs += 1
            for old_epoch in sorted(self._orders)[:-_MAX_ORDERS]:
                if old_epoch != epoch:
                    del self._orders[old_epoch]
        return self._orders[epoch]

    def _list_checked(self, epoch: int) -> list[Any]:
        if not self._checked:
            self._checked = True
            before = [generator.get_state() for generator, _ in self._generators]
            order = self._list_epoch(epoch, seed=1)
            for (generator, _), state in zip(self._generators, before, strict=True):
                generator.set_state(state)
            if order != self._list_epoch(epoch, seed=2):
                raise UsageError(
                    "the order of the data is drawn from torch's global generator at every epoch, so that a batch "
                    "cannot be found by its index. Give the loader its own generator: DataLoader(…, shuffle=True, "
                    "generator=torch.Generator().manual_seed(seed))"
                )
            return order
        return self._list_epoch(epoch, seed=1)

    def _list_epoch(self, epoch: int, seed: int) -> list[Any]:
        """What the sampler lists for an epoch if the global generator starts from `seed`."""
        with restored_generators():
            torch.default_generator.manual_seed(seed)
            for sampler in self._samplers:
                set_epoch = getattr(sampler, "set_epoch", None)  # by torch's convention, some samplers have it
                if set_epoch is not None:
                    set_epoch(epoch)
            if self._loader.generator is not None:
                draw_seed(self._loader.generator)
            source = self._loader.sampler if self._loader.batch_sampler is None else self._loader.batch_sampler
            return list(source)[: self.per_epoch] if self._exhausts else list(islice(source, self.per_epoch))

    def _rewind(self) -> None:
        self._listed_epochs = 0
        for generator, state in self._generators:
            generator.set_state(state)

    def _read_stream(self, index: int) -> tuple[Any, ...]:
        if not 0 <= self._stream_index <= index:
            self._stream, self._stream_index = iter(self._loader), 0
        while True:
            parts = tuple(islice(self._stream, self._accumulate))
            if len(parts) < self._accumulate:
                raise UsageError(f"batch {index}: the data end after {self._stream_index} batches")
            self._stream_index += 1
            if self._stream_index == index + 1:
                return parts


def draw_seed(generator: torch.Generator | None = None) -> None:
    """Draw what torch's loader draws at the beginning of an epoch."""
    torch.empty((), dtype=torch.int64).random_(generator=generator)


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    """The loader, its samplers, and the samplers that these wrap."""
    samplers: list[Any] = []
    pending: list[Any] = [loader]
    while pending:
        candidate = pending.pop()
        if candidate is not None and all(candidate is not sampler for sampler in samplers):
            samplers.append(candidate)
            pending += [getattr(candidate, name, None) for name in ("batch_sampler", "sampler")]
    return samplers


def _generators(loader: DataLoader[Any], samplers: list[Any]) -> list[tuple[torch.Generator, torch.Tensor]]:
    """(generator, its present state) of each generator from which the order is drawn."""
    candidates = [getattr(owner, "generator", None) for owner in (loader, *samplers)]
    generators = {id(generator): generator for generator in candidates if isinstance(generator, torch.Generator)}
    return [(generator, generator.get_state()) for generator in generators.values()]
