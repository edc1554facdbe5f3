"""Arrays that stay on disk: `.npy` files of which one window at a time is in memory.

They are read, not mapped, because a process dies when a file that it maps is truncated.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.io.arrays import StoredArray
from mnist_runtime.io.files import open_regular
from mnist_train.errors import DataError

_WINDOW_BYTES = 2**22
_WANTED = "leave the data where they are until the end of the training"


@dataclass(frozen=True)
class DiskArray:
    """Rows of a C-ordered `.npy` file."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Shape of the array; its first axis is the rows."""
    offset: int
    """Position of the first row, in bytes from the start of the file."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Check the header of the `.npy` file at `path` against its size; no row is read.

        Raises:
            FileMissingError, FileReadError, DigitError: as `mnist_runtime.io.arrays.StoredArray.open`.
            DataError: it has no rows.
        """
        array = StoredArray.open(path)
        if not math.prod(array.shape):
            raise DataError(f"{path} holds no rows; save at least one with np.save")
        return cls(Path(path), array.dtype, array.shape, array.offset)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        """Read the rows from `first` to before `stop`.

        Raises:
            FileMissingError, FileReadError: the file is missing or cannot be read any more.
            DataError: it has become shorter.
        """
        rows = np.empty((stop - first, *self.shape[1:]), self.dtype)
        with open_regular(self.path, _WANTED) as file:
            file.seek(self.offset + first * self.row_bytes)
            if file.readinto(rows.reshape(-1).view(np.uint8).data) < rows.nbytes:
                raise DataError(f"{self.path} has become shorter since it was opened; {_WANTED}")
        return rows

    def part(self, first: int, stop: int) -> "DiskArray":
        """Return the rows from `first` to before `stop`, still on disk."""
        offset = self.offset + first * self.row_bytes
        return DiskArray(self.path, self.dtype, (stop - first, *self.shape[1:]), offset)

    def windows(self) -> Iterator[NDArray[Any]]:
        """Read all rows in order, a few MiB at a time."""
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
class DiskSplit:
    """Digits and labels that stay on disk."""

    images: DiskArray
    labels: DiskArray

    def __len__(self) -> int:
        return len(self.images)

    def part(self, first: int, stop: int) -> "DiskSplit":
        """Return the digits from `first` to before `stop`."""
        return DiskSplit(self.images.part(first, stop), self.labels.part(first, stop))

    def digests(self) -> tuple[str, str]:
        """Return the SHA-256 of the bytes of images and labels on disk, in hex; all of them are read."""
        return self.images.sha256(), self.labels.sha256()
