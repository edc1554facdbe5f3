"""Where the loop's batches come from: tensors in memory, or arrays on disk that never have to fit there."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnist_runtime.digits import PIXELS
from mnist_train.data.bundled import scaled
from mnist_train.data.mapped import Mapped

Data = tuple[Tensor, Tensor]
"""Pixels float32 `[N, 784]` and labels int64 `[N]`, on the model's device."""

_Range = tuple[int, int]  # first, stop
_Rows = slice | NDArray[np.int64]

_BLOCK_BYTES = 2**21  # read at once, in one piece: large enough for any disk to be quick
_BUFFER_BYTES = 16 * _BLOCK_BYTES
"""What is shuffled at a time, unless a single batch is larger."""


class Batches(Protocol):
    """Digits that can be gone through again and again, each time in the order that the epoch's number fixes.

    The batches are the same for any number of ranks, and each rank is given its share of every one.
    """

    def __len__(self) -> int:
        """How many digits, of all ranks."""

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """Pixels and labels of this rank's share of each batch of an epoch, from batch `start` on.

        The last batch takes what is left. A share can be empty.
        """


def share(first: int, stop: int, rank: int, ranks: int) -> _Range:
    """The part of `first` to `stop` that is of `rank`; one after another, as even as can be, they make the whole.

    >>> [share(0, 8, rank, 3) for rank in range(3)]
    [(0, 2), (2, 5), (5, 8)]
    """
    count = stop - first
    return first + count * rank // ranks, first + count * (rank + 1) // ranks


@dataclass(frozen=True)
class InMemory:
    """Tensors on the model's device, in file order or shuffled anew every epoch."""

    pixels: Tensor
    """float32 `[N, 784]`."""
    labels: Tensor
    """int64 `[N]`."""
    shuffle: int | None = None
    """The seed of the shuffle; None for file order."""
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        return len(self.pixels)

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """As `Batches.epoch`; in file order they are views, and nothing is copied."""
        shares = self._shares(batch_size, start)
        if self.shuffle is None:
            for rows in shares:
                yield self.pixels[rows], self.labels[rows]
            return
        order = torch.from_numpy(_rng(self.shuffle, number).permutation(len(self))).to(self.pixels.device)
        for rows in shares:
            yield self.pixels[order[rows]], self.labels[order[rows]]

    def _shares(self, batch_size: int, start: int) -> Iterator[slice]:
        """Of each batch: that of a whole one is worked out once, and not at every step."""
        left = len(self) - len(self) % batch_size
        low, high = share(0, batch_size, self.rank, self.ranks)
        for first in range(start * batch_size, left, batch_size):
            yield slice(first + low, first + high)
        if start * batch_size <= left < len(self):
            yield slice(*share(left, len(self), self.rank, self.ranks))


@dataclass(frozen=True)
class OnDisk:
    """Mapped arrays, read a block at a time and never at random.

    A shuffled epoch takes the blocks, of about 2 MiB or one batch, in random order, up to 32 MiB of them at a time, and
    shuffles within those; what is left over after the last whole block comes last. Memory stays the same however long
    the file is.

    A rank reads its own rows alone: in file order its share of every batch, shuffled its share of what is shuffled at a
    time. Then the digits of a batch are of whichever rank read them, and the shares are as uneven as chance has it.
    """

    images: Mapped
    """uint8 or float32, `[N, 784]` or `[N, 28, 28]`."""
    labels: Mapped
    """Integers `[N]`."""
    device: torch.device
    shuffle: int | None = None
    """The seed of the shuffle; None for file order."""
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        return len(self.images)

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """As `Batches.epoch`; what comes before `start` is not read."""
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
                own, chosen = self._shuffled(batches, _rng(self.shuffle, number, index).permutation(size))
            stretches = [part for stretch in own for part in _parts(blocks, *stretch)]
            images = _read(self.images, stretches).reshape(-1, PIXELS)
            labels = _read(self.labels, stretches).astype(np.int64)
            for rows in chosen:
                pixels = scaled(torch.from_numpy(images[rows]).to(self.device))
                yield pixels, torch.from_numpy(labels[rows]).to(self.device)
            skip = 0

    def _in_order(self, batches: list[_Range]) -> tuple[list[_Range], Iterator[_Rows]]:
        """What of a buffer is this rank's, its share of each batch; and where in that its rows of each batch lie."""
        shares = [share(*batch, self.rank, self.ranks) for batch in batches]
        ends = list(accumulate((stop - first for first, stop in shares), initial=0))
        own = shares if self.ranks > 1 else [(batches[0][0], batches[-1][1])]  # in one piece
        return own, (slice(start, end) for start, end in pairwise(ends))

    def _shuffled(self, batches: list[_Range], order: NDArray[np.int64]) -> tuple[list[_Range], Iterator[_Rows]]:
        """As `_in_order`, of a buffer whose rows come in `order`: what is this rank's is in one piece."""
        low, high = share(0, len(order), self.rank, self.ranks)
        batch_rows = (order[first:stop] for first, stop in batches)
        return [(low, high)], (rows[(low <= rows) & (rows < high)] - low for rows in batch_rows)

    def _buffers(self, number: int, batch_size: int) -> Iterator[list[_Range]]:
        """The blocks (first, stop) of each buffer; all but the last hold a whole number of batches."""
        block = batch_size * max(1, _BLOCK_BYTES // (self.images.row_bytes * batch_size))
        whole = len(self) // block
        if self.shuffle is None:
            order, at_once = np.arange(whole), 1
        else:
            order, at_once = (
                _rng(self.shuffle, number).permutation(whole),
                max(1, _BUFFER_BYTES // (block * self.images.row_bytes)),
            )
        for first in range(0, whole, at_once):
            yield [(int(i) * block, int(i + 1) * block) for i in order[first : first + at_once]]
        if whole * block < len(self):
            yield [(whole * block, len(self))]


def _parts(blocks: list[_Range], low: int, high: int) -> Iterator[_Range]:
    """Where in the file the rows `low` to `high` of a buffer of `blocks` lie."""
    for first, stop in blocks:
        if (start := first + max(low, 0)) < (end := min(first + high, stop)):
            yield start, end
        low, high = low - (stop - first), high - (stop - first)


def _read(mapped: Mapped, stretches: list[_Range]) -> NDArray[Any]:
    nothing = np.empty((0, *mapped.shape[1:]), mapped.dtype)
    return np.concatenate([nothing, *(mapped.rows(*stretch) for stretch in stretches)])


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
