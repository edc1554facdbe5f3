"""Where the loop's batches come from: tensors in memory, or arrays on disk that never have to fit there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mnist_runtime.digits import PIXELS
from mnist_train.arrays import Mapped
from mnist_train.data import scaled

Data = tuple[Tensor, Tensor]
"""Pixels float32 `[N, 784]` and labels int64 `[N]`, on the model's device."""

_BLOCK_BYTES = 2**21  # read at once, in one piece: large enough for any disk to be quick
_BUFFER_BYTES = 16 * _BLOCK_BYTES
"""What is shuffled at a time, unless a single batch is larger."""


class Batches(Protocol):
    """Digits that can be gone through again and again, each time in the order that the epoch's number fixes."""

    def __len__(self) -> int:
        """How many digits."""

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """Pixels and labels of each batch of an epoch, from batch `start` on; the last takes what is left."""


@dataclass(frozen=True)
class InMemory:
    """Tensors on the model's device, in file order or shuffled anew every epoch."""

    pixels: Tensor
    """float32 `[N, 784]`."""
    labels: Tensor
    """int64 `[N]`."""
    shuffle: int | None = None
    """The seed of the shuffle; None for file order."""

    def __len__(self) -> int:
        return len(self.pixels)

    def epoch(self, number: int, batch_size: int, start: int = 0) -> Iterator[Data]:
        """As `Batches.epoch`; in file order they are views, and nothing is copied."""
        starts = range(start * batch_size, len(self), batch_size)
        if self.shuffle is None:
            for first in starts:
                yield self.pixels[first : first + batch_size], self.labels[first : first + batch_size]
            return
        order = torch.from_numpy(_rng(self.shuffle, number).permutation(len(self))).to(self.pixels.device)
        for first in starts:
            rows = order[first : first + batch_size]
            yield self.pixels[rows], self.labels[rows]


@dataclass(frozen=True)
class OnDisk:
    """Mapped arrays, read a block at a time and never at random.

    A shuffled epoch takes the blocks, of about 2 MiB or one batch, in random order, up to 32 MiB of them at a time, and
    shuffles within those; what is left over after the last whole block comes last. Memory stays the same however long
    the file is.
    """

    images: Mapped
    """uint8 or float32, `[N, 784]` or `[N, 28, 28]`."""
    labels: Mapped
    """Integers `[N]`."""
    device: torch.device
    shuffle: int | None = None
    """The seed of the shuffle; None for file order."""

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
            images = np.concatenate([self.images.rows(*block) for block in blocks]).reshape(-1, PIXELS)
            labels = np.concatenate([self.labels.rows(*block) for block in blocks]).astype(np.int64)
            order = None if self.shuffle is None else _rng(self.shuffle, number, index).permutation(size)
            for first in range(skip, size, batch_size):
                rows = slice(first, first + batch_size)
                chosen = rows if order is None else order[rows]
                pixels = scaled(torch.from_numpy(images[chosen]).to(self.device))
                yield pixels, torch.from_numpy(labels[chosen]).to(self.device)
            skip = 0

    def _buffers(self, number: int, batch_size: int) -> Iterator[list[tuple[int, int]]]:
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


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
