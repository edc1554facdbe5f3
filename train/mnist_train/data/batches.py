"""Batches for the training loop, from tensors in memory or from larger arrays on disk."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnist_runtime.digits import PIXELS
from mnist_train.data.bundled import scaled
from mnist_train.data.disk import DiskArray

Data = tuple[Tensor, Tensor]
"""Pixels float32 `[N, 784]` and labels int64 `[N]`, on the model's device."""

Alteration = Callable[[Tensor, Tensor, np.random.SeedSequence], Data]
"""A random change of the pixels and labels of a batch, which the seed decides."""

_Range = tuple[int, int]  # first, stop
_Rows = slice | NDArray[np.int64]

_BLOCK_BYTES = 2**21  # read in one piece, large enough for any disk to be fast
_BUFFER_BYTES = 16 * _BLOCK_BYTES
"""Bytes that are shuffled together, unless one batch is larger."""


class Batches(Protocol):
    """Digits that are iterated once per epoch, in an order that depends on the epoch's number.

    The batches are the same for any number of ranks; each rank gets its share of every batch.
    """

    def __len__(self) -> int:
        """Return the number of digits, of all ranks."""

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """Yield pixels and labels of this rank's share of each batch of an epoch, from batch `start` on.

        The last batch takes the remainder. A share can be empty.
        """


def share(first: int, stop: int, rank: int, ranks: int) -> _Range:
    """Return the part of the range `first` to `stop` that belongs to `rank`; the parts are as even as possible.

    >>> [share(0, 8, rank, 3) for rank in range(3)]
    [(0, 2), (2, 5), (5, 8)]
    """
    count = stop - first
    return first + count * rank // ranks, first + count * (rank + 1) // ranks


@dataclass(frozen=True)
class InMemory:
    """Tensors on the model's device, in file order or shuffled in every epoch."""

    pixels: Tensor
    """float32 `[N, 784]`."""
    labels: Tensor
    """int64 `[N]`."""
    shuffle: int | None = None
    """Seed of the shuffle; None for file order."""
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        return len(self.pixels)

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """See `Batches.epoch`; in file order, batches are views."""
        shares = self._shares(batch_size, start)
        if self.shuffle is None:
            for rows in shares:
                yield self.pixels[rows], self.labels[rows]
            return
        permutation = np.random.default_rng((self.shuffle, number)).permutation(len(self))
        order = torch.from_numpy(permutation).to(self.pixels.device)
        for rows in shares:
            yield self.pixels[order[rows]], self.labels[order[rows]]

    def _shares(self, batch_size: int, start: int) -> Iterator[slice]:
        """Yield this rank's share of each batch; the share of a whole batch is computed once."""
        left = len(self) - len(self) % batch_size
        low, high = share(0, batch_size, self.rank, self.ranks)
        for first in range(start * batch_size, left, batch_size):
            yield slice(first + low, first + high)
        if start * batch_size <= left < len(self):
            yield slice(*share(left, len(self), self.rank, self.ranks))


@dataclass(frozen=True)
class OnDisk:
    """Arrays on disk, read a block at a time and never at random positions.

    A shuffled epoch takes the blocks, of about 2 MiB or one batch, in random order, up to 32 MiB of them at a time, and
    shuffles within those; the remainder after the last whole block comes last. Memory does not grow with the file.

    A rank reads its own rows only: in file order, its share of every batch; shuffled, its share of the rows that are
    shuffled together. A shuffled batch then consists of rows of all ranks, in shares as uneven as chance makes them.
    """

    images: DiskArray
    """uint8 or float32, `[N, 784]` or `[N, 28, 28]`."""
    labels: DiskArray
    """Integers `[N]`."""
    device: torch.device
    shuffle: int | None = None
    """Seed of the shuffle; None for file order."""
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        return len(self.images)

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """See `Batches.epoch`; batches before `start` are not read."""
        skip = start * batch_size
        for index, blocks in enumerate(self._buffers(number, batch_size)):
            size = sum(stop - first for first, stop in blocks)
            if skip >= size:
                skip -= size
                continue
            batches = [(first, min(first + batch_size, size)) for first in range(skip, size, batch_size)]
            if self.shuffle is None:
                own, chosen = self._in_order(batches)
            else:
                order = np.random.default_rng((self.shuffle, number, index)).permutation(size)
                own, chosen = self._shuffled(batches, order)
            stretches = [part for stretch in own for part in _parts(blocks, *stretch)]
            images = _read(self.images, stretches).reshape(-1, PIXELS)
            labels = _read(self.labels, stretches).astype(np.int64)
            for rows in chosen:
                pixels = scaled(torch.from_numpy(images[rows]).to(self.device))
                yield pixels, torch.from_numpy(labels[rows]).to(self.device)
            skip = 0

    def _in_order(self, batches: list[_Range]) -> tuple[list[_Range], Iterator[_Rows]]:
        """Return this rank's rows of a buffer, its share of each batch, and the positions of each batch in them."""
        shares = [share(*batch, self.rank, self.ranks) for batch in batches]
        ends = list(accumulate((stop - first for first, stop in shares), initial=0))
        own = shares if self.ranks > 1 else [(batches[0][0], batches[-1][1])]  # one range
        return own, (slice(start, end) for start, end in pairwise(ends))

    def _shuffled(self, batches: list[_Range], order: NDArray[np.int64]) -> tuple[list[_Range], Iterator[_Rows]]:
        """See `_in_order`, for a buffer whose rows come in `order`; this rank's rows are one range."""
        low, high = share(0, len(order), self.rank, self.ranks)
        batch_rows = (order[first:stop] for first, stop in batches)
        return [(low, high)], (rows[(low <= rows) & (rows < high)] - low for rows in batch_rows)

    def _buffers(self, number: int, batch_size: int) -> Iterator[list[_Range]]:
        """Yield the blocks (first, stop) of each buffer; all but the last hold a whole number of batches."""
        block = batch_size * max(1, _BLOCK_BYTES // (self.images.row_bytes * batch_size))
        whole = len(self) // block
        order, at_once = np.arange(whole), 1
        if self.shuffle is not None:
            order = np.random.default_rng((self.shuffle, number)).permutation(whole)
            at_once = max(1, _BUFFER_BYTES // (block * self.images.row_bytes))
        for first in range(0, whole, at_once):
            yield [(int(i) * block, int(i + 1) * block) for i in order[first : first + at_once]]
        if whole * block < len(self):
            yield [(whole * block, len(self))]


@dataclass(frozen=True)
class Altered:
    """Batches that are altered at random, anew in every epoch; a thread makes the next batch ahead of its step.

    The alterations depend on seed, epoch, batch and rank alone, so a resumed training sees the batches of an
    uninterrupted one.
    """

    batches: Batches
    alterations: Sequence[Alteration]
    """Alterations of each batch, made in this order with the same seed."""
    seed: int
    rank: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """See `Batches.epoch`."""
        return _ahead(self._altered(number, batch_size, start))

    def _altered(self, number: int, batch_size: int, start: int) -> Iterator[Data]:
        for index, batch in enumerate(self.batches.epoch(number, batch_size, start), start):
            seed = np.random.SeedSequence((self.seed, number, index, self.rank))
            for alter in self.alterations:
                batch = alter(*batch, seed)
            yield batch


def _ahead(batches: Iterator[Data]) -> Iterator[Data]:
    """Yield each batch, and let a thread make the next one meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while batch := coming.result():
            coming = thread.submit(next, batches, None)
            yield batch


def _parts(blocks: list[_Range], low: int, high: int) -> Iterator[_Range]:
    """Yield the ranges in the file of the rows `low` to `high` of a buffer of `blocks`."""
    for first, stop in blocks:
        if (start := first + max(low, 0)) < (end := min(first + high, stop)):
            yield start, end
        low, high = low - (stop - first), high - (stop - first)


def _read(array: DiskArray, stretches: list[_Range]) -> NDArray[Any]:
    nothing = np.empty((0, *array.shape[1:]), array.dtype)
    return np.concatenate([nothing, *(array.rows(*stretch) for stretch in stretches)])
