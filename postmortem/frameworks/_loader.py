"""The batches of a DataLoader by absolute index, as often and in whatever order they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from postmortem.errors import UsageError
from postmortem.frameworks._untouched import same_draws

_KEPT = 2  # epochs whose order is held


class LoaderBatches:
    """What `loader` hands out: index i is what update i of a training without skips consumes.

    accumulate: batches of the loader to an update. per_epoch: batches of the loader that are consumed of each epoch,
    all of them by default. exhausts: whether the loop asks an epoch for more than its last batch, upon which torch's
    RandomSampler draws from its generator once more.

    A map-style dataset is read at the rows that the loader's own sampler names; a stream is read from its beginning,
    again where an earlier batch is asked for. Nothing is drawn from the process's generators.
    """

    def __init__(
        self, loader: DataLoader[Any], accumulate: int = 1, per_epoch: int | None = None, *, exhausts: bool = True
    ) -> None:
        self._loader, self._accumulate, self._exhausts = loader, accumulate, exhausts
        self._streams = isinstance(loader.dataset, IterableDataset)
        self.per_epoch = None if self._streams else len(loader) if per_epoch is None else per_epoch
        self._orders: dict[int, list[Any]] = {}
        self._listed = 0  # epochs that a generator of the loader's own has drawn
        self._checked = False
        self._samplers = _samplers(loader)
        self._generators = _generators(loader, self._samplers)
        self._stream: Iterator[Any] = iter(())
        self._at = -1  # index that the stream hands out next; -1 before its beginning

    @property
    def updates_per_epoch(self) -> int | None:
        """Updates to an epoch; None for a stream, which has no end that is known."""
        return None if self.per_epoch is None else math.ceil(self.per_epoch / self._accumulate)

    @property
    def draws(self) -> bool:
        """Whether torch's loader draws from the global generator when an epoch begins: a seed for its workers, even
        where there are none."""
        return self._loader.generator is None

    def parts(self, index: int) -> tuple[Any, ...]:
        """The micro-batches of the update at `index`.

        Raises:
            UsageError: the order of the data cannot be found again, or a stream ends before that batch.
        """
        with same_draws():
            if self.updates_per_epoch is None:
                return self._streamed(index)
            epoch, at = divmod(index, self.updates_per_epoch)
            first = at * self._accumulate
            return tuple(self._fetch(key) for key in self._order(epoch)[first : first + self._accumulate])

    def _fetch(self, key: Any) -> Any:
        dataset: Any = self._loader.dataset
        if self._loader.batch_sampler is None:
            return self._loader.collate_fn(dataset[key])
        together = getattr(dataset, "__getitems__", None)  # what torch's own fetcher asks for
        return self._loader.collate_fn(together(key) if together else [dataset[one] for one in key])

    def _order(self, epoch: int) -> list[Any]:
        """Keys of the batches of an epoch: lists of rows."""
        if epoch not in self._orders:
            stateful = bool(self._generators) and not any(hasattr(one, "set_epoch") for one in self._samplers)
            if not stateful or epoch < self._listed:
                self._rewind()
            if not stateful:
                self._listed = epoch
            while self._listed <= epoch:
                self._orders[self._listed] = self._list(self._listed)
                self._listed += 1
            for old in sorted(self._orders)[:-_KEPT]:
                if old != epoch:
                    del self._orders[old]
        return self._orders[epoch]

    def _list(self, epoch: int) -> list[Any]:
        if not self._checked:
            self._checked = True
            before = [generator.get_state() for generator, _ in self._generators]
            drawn = self._listing(epoch, seed=1)
            for (generator, _), state in zip(self._generators, before, strict=True):
                generator.set_state(state)
            if drawn != self._listing(epoch, seed=2):
                raise UsageError(
                    "the order of the data is drawn anew from torch's global generator at every epoch, so that no "
                    "index finds a batch again. Give the loader a generator of its own: DataLoader(…, shuffle=True, "
                    "generator=torch.Generator().manual_seed(seed))"
                )
            return drawn
        return self._listing(epoch, seed=1)

    def _listing(self, epoch: int, seed: int) -> list[Any]:
        """What the sampler lists for an epoch, as the global generator of `seed` has it."""
        with same_draws():
            torch.default_generator.manual_seed(seed)
            for sampler in self._samplers:
                set_epoch = getattr(sampler, "set_epoch", None)  # samplers have it or not, by torch's convention
                if set_epoch is not None:
                    set_epoch(epoch)
            if self._loader.generator is not None:
                draw_seed(self._loader.generator)
            source = self._loader.sampler if self._loader.batch_sampler is None else self._loader.batch_sampler
            return list(source)[: self.per_epoch] if self._exhausts else list(islice(source, self.per_epoch))

    def _rewind(self) -> None:
        self._listed = 0
        for generator, state in self._generators:
            generator.set_state(state)

    def _streamed(self, index: int) -> tuple[Any, ...]:
        if not 0 <= self._at <= index:
            self._stream, self._at = iter(self._loader), 0
        while True:
            parts = tuple(islice(self._stream, self._accumulate))
            if len(parts) < self._accumulate:
                raise UsageError(f"batch {index}: the data end after {self._at} batches")
            self._at += 1
            if self._at == index + 1:
                return parts


def draw_seed(generator: torch.Generator | None = None) -> None:
    """What torch's loader draws at the beginning of an epoch."""
    torch.empty((), dtype=torch.int64).random_(generator=generator)


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    """The loader, its samplers, and the samplers that these wrap."""
    found: list[Any] = []
    todo: list[Any] = [loader]
    while todo:
        one = todo.pop()
        if one is not None and all(one is not other for other in found):
            found.append(one)
            todo += [getattr(one, name, None) for name in ("batch_sampler", "sampler")]
    return found


def _generators(loader: DataLoader[Any], samplers: list[Any]) -> list[tuple[torch.Generator, torch.Tensor]]:
    """(generator, its state now) of each that the order is drawn from."""
    held = [getattr(one, "generator", None) for one in (loader, *samplers)]
    found = {id(one): one for one in held if isinstance(one, torch.Generator)}
    return [(one, one.get_state()) for one in found.values()]
