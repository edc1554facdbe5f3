"""Arrays that stay on disk: `.npy` files of which one window at a time is in memory."""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.io.npy import Npy
from mnist_train.errors import DataError

_WINDOW_BYTES = 2**22


@dataclass(frozen=True)
class Mapped:
    """Rows of a C-ordered `.npy` file."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Shape of these rows."""
    offset: int
    """Position of the first row, in bytes from the start of the file."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Check the header of the `.npy` file at `path` against its size; no row is read.

        Raises:
            FileMissingError, FileReadError, DigitError: as `mnist_runtime.io.npy.Npy.open`.
            DataError: it has no rows.
        """
        npy = Npy.open(path)
        if not math.prod(npy.shape):
            raise DataError(f"{path} holds no rows; save at least one with np.save")
        return cls(Path(path), npy.dtype, npy.shape, npy.offset)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        """Map the rows from `first` to before `stop`; their memory is released with the array.

        Each call makes a mapping of its own, because the pages of a long-lived mapping would count as this process's
        memory until they make up the whole file.
        """
        return np.memmap(
            self.path,
            self.dtype,
            mode="r",
            offset=self.offset + first * self.row_bytes,
            shape=(stop - first, *self.shape[1:]),
        )

    def part(self, first: int, stop: int) -> "Mapped":
        """Return the rows from `first` to before `stop`, still on disk."""
        offset = self.offset + first * self.row_bytes
        return Mapped(self.path, self.dtype, (stop - first, *self.shape[1:]), offset)

    def windows(self) -> Iterator[NDArray[Any]]:
        """Map all rows in order, a few MiB at a time."""
        step = max(1, _WINDOW_BYTES // self.row_bytes)
        for first in range(0, len(self), step):
            yield self.rows(first, min(first + step, len(self)))

    def sha256(self) -> str:
        """Return the SHA-256 of the rows' bytes, in hex."""
        digest = hashlib.sha256()
        for window in self.windows():
            digest.update(window.data)
        return digest.hexdigest()


@dataclass(frozen=True)
class MappedSplit:
    """Digits and labels that stay on disk."""

    images: Mapped
    labels: Mapped

    def __len__(self) -> int:
        return len(self.images)

    def part(self, first: int, stop: int) -> "MappedSplit":
        """Return the digits from `first` to before `stop`."""
        return MappedSplit(self.images.part(first, stop), self.labels.part(first, stop))

    def digests(self) -> tuple[str, str]:
        """Return the SHA-256 of the bytes of images and labels on disk, in hex; all of them are read."""
        return self.images.sha256(), self.labels.sha256()
