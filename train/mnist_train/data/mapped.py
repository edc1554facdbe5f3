"""Arrays that stay on disk: `.npy` files of which a window at a time is in memory."""

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
    """Of these rows."""
    offset: int
    """Of the first row, in bytes from the start of the file."""

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
        """Size of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        """Rows `first` to `stop`, mapped; what was read goes back to the system with the array.

        Each window is a mapping of its own: the pages of one long-lived mapping would count as this process's memory
        until all of the file is there.
        """
        return np.memmap(
            self.path,
            self.dtype,
            mode="r",
            offset=self.offset + first * self.row_bytes,
            shape=(stop - first, *self.shape[1:]),
        )

    def part(self, first: int, stop: int) -> "Mapped":
        """The rows `first` to `stop` as an array on disk of their own."""
        offset = self.offset + first * self.row_bytes
        return Mapped(self.path, self.dtype, (stop - first, *self.shape[1:]), offset)

    def windows(self) -> Iterator[NDArray[Any]]:
        """All rows, a few MiB at a time."""
        step = max(1, _WINDOW_BYTES // self.row_bytes)
        for first in range(0, len(self), step):
            yield self.rows(first, min(first + step, len(self)))

    def sha256(self) -> str:
        """Of the rows' bytes, in hex."""
        digest = hashlib.sha256()
        for window in self.windows():
            digest.update(window.data)
        return digest.hexdigest()
