"""Arrays in files, NumPy's .npy and MNIST's IDX, gzipped or not, read without trust.

No pickle runs, and no header claims more than the file holds. IDX: two zeros, the type of the numbers, the number of
dimensions, each dimension in four bytes, then the numbers, all big-endian (https://yann.lecun.org/exdb/mnist/).
"""

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import PIXELS, Intensities, Pixels, as_digits, count_digits
from mnist_runtime.errors import DigitError, first_line
from mnist_runtime.io.files import Stream, decompressed, open_regular, read_pieces

_WANTED = "give a .npy file as np.save writes it, or an IDX file"
_IDX_DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_MAGIC = b"\x93NUMPY"
_ARRAY_LIMIT = 2**30  # bytes that `StoredArray.array` holds in memory
_HEADER_LIMIT = 10_000  # bytes; NumPy's own limit, which NumPy checks only after reading the whole header
_NPY_READERS = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}
"""Size in bytes of the header's length, and NumPy's reader of length and header, per format version."""

_Header = tuple[tuple[int, ...], bool, np.dtype[Any], int]
"""Shape, Fortran order, dtype, and the header's own size in bytes."""


class OtherArrayError(DigitError):
    """A whole array of something other than digits."""


@dataclass(frozen=True)
class StoredArray:
    """An array of numbers in C order, of which only the header has been read."""

    name: str
    """Path of the file, or the stream's name in errors."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    """Size of the header in bytes."""
    _stream: Stream | None
    """Stream that stands at the first number; None for a file, which is opened again for each read."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read the header of the file at `path` and check its claims against the file's size, unless it is gzipped.

        Raises:
            FileMissingError: there is no such file.
            FileReadError: it is a folder, a pipe or a device, or cannot be read.
            DigitError: it is no whole array of numbers in C order, or holds a pickle.
        """
        with open_regular(path, _WANTED) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise DigitError(f"{path} is empty; {_WANTED}")
            stream = decompressed(file)
            return cls._read_header(stream, str(path), size if stream is file else None, None)

    @classmethod
    def of_stream(cls, stream: Stream, name: str, size: int | None = None) -> Self:
        """Read the header of an array from a stream; `chunks` or `array` then read the rest, once.

        Args:
            stream: A stream at the start of the array's file, not compressed.
            name: Name of the stream in errors.
            size: Bytes of the whole file, if known; the header's claims are checked against them.

        Raises:
            DigitError: it is no whole array of numbers in C order, or holds a pickle.
        """
        return cls._read_header(stream, name, size, stream)

    @classmethod
    def _read_header(cls, stream: Stream, name: str, size: int | None, kept: Stream | None) -> Self:
        shape, is_fortran, dtype, offset = _header(stream, name)
        array = cls(name, shape, dtype, offset, kept)
        if size is not None:
            array._check_whole(size - offset, array._bytes)
        if is_fortran:
            len(array)  # raises OtherArrayError for an array of something else
            raise DigitError(f"{name} is in Fortran order; save it again with np.save(path, np.ascontiguousarray(x))")
        return array

    def __len__(self) -> int:
        """Return the number of digits.

        Raises:
            OtherArrayError: the shape or dtype is not that of digits.
        """
        try:
            return count_digits(self.shape, self.dtype)
        except DigitError as error:
            raise OtherArrayError(f"{self.name}: {error}") from error

    def array(self) -> NDArray[Any]:
        """Read the whole array, of at most 1 GiB; memory grows with the bytes present, not with the header's claim.

        Raises:
            FileReadError: the file cannot be read.
            DigitError: it holds more than 1 GiB, or less than its header claims.
        """
        if self._bytes > _ARRAY_LIMIT:
            raise DigitError(
                f"{self.name} holds {self._bytes / 2**30:,.1f} GiB, and at most {_ARRAY_LIMIT >> 30} GiB is read at "
                "once; save it in smaller files"
            )
        with self._at(0) as stream:
            data = read_pieces(stream, self._bytes - 1)
        self._check_whole(len(data), self._bytes)
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def chunks(self, count: int, start: int = 0, stop: int | None = None) -> Iterator[Intensities | Pixels]:
        """Read digits in order, checked by `as_digits`: uint8 or float32 `[n, 784]`, at most `count` at a time.

        Args:
            count: Largest number of digits to hold in memory.
            start: First digit to read of a file; a stream continues from its position.
            stop: Digit before which to stop; the number of digits by default.

        Raises:
            OtherArrayError: the shape or dtype is not that of digits.
            FileReadError: the file cannot be read.
            DigitError: it holds less than its header claims, or values that are not a digit's.
        """
        stop, row = len(self) if stop is None else stop, PIXELS * self.dtype.itemsize
        with self._at(start) as stream:
            for first in range(start, stop, count):
                rows = min(count, stop - first)
                data = stream.read(rows * row)
                self._check_whole(len(data), rows * row)
                yield as_digits(np.frombuffer(data, self.dtype).reshape(rows, PIXELS))

    @property
    def _bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @contextlib.contextmanager
    def _at(self, digit: int) -> Iterator[Stream]:
        """Open the file at one of its digits; a stream is passed on from where it stands.

        Files are read and not mapped, because truncating a mapped file kills the process that reads it.
        """
        if self._stream is not None:
            yield self._stream
            return
        with open_regular(self.name, _WANTED) as file:
            stream = decompressed(file)
            stream.seek(self.offset + digit * PIXELS * self.dtype.itemsize)
            yield stream

    def _check_whole(self, size: int, wanted: int) -> None:
        if size < wanted:
            raise DigitError(
                f"{self.name} is cut short by {wanted - size:,} bytes of its {self.dtype} {self.shape}; copy or save "
                "it again"
            )


def _header(stream: Stream, name: str) -> _Header:
    """Parse the header, whose claims are not checked against the file's size."""
    start = stream.read(len(_MAGIC) + 2)
    if start[:2] == b"\0\0":
        return _idx_header(start, stream, name)
    if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC):
        _refuse(name, "it does not begin as one")
    return _npy_header((start[-2], start[-1]), stream, name)


def _idx_header(start: bytes, stream: Stream, name: str) -> _Header:
    try:
        dtype, ndim = np.dtype(_IDX_DTYPES[start[2]]), start[3]
        shape = struct.unpack(f">{ndim}I", start[4:] + stream.read(4 * (ndim - 1)))
        np.broadcast_to(np.empty((), dtype), shape)
    except (LookupError, ValueError, struct.error) as error:
        raise DigitError(f"{name} is not a whole IDX file ({error}); copy or download it again") from error
    return shape, False, dtype, 4 + 4 * ndim


def _npy_header(version: tuple[int, int], stream: Stream, name: str) -> _Header:
    if version not in _NPY_READERS:
        _refuse(name, f"its format version {version} is not 1.0 or 2.0")
    width, read = _NPY_READERS[version]
    length = stream.read(width)
    size = int.from_bytes(length, "little")
    if size > _HEADER_LIMIT:
        _refuse(name, f"its header claims more than {_HEADER_LIMIT:,} bytes")
    header = stream.read(size)
    try:
        shape, fortran_order, dtype = read(io.BytesIO(length + header))
        np.broadcast_to(np.empty((), dtype), shape)  # takes no memory, and fails where no such shape can exist
    except Exception as error:  # noqa: BLE001  # the parser reads Python literals, and raises what that runs into
        _refuse(name, first_line(error), error)
    if dtype.hasobject:
        raise OtherArrayError(f"{name} holds pickled Python objects, which are never loaded; save numbers with np.save")
    if dtype.kind not in "biufc":
        raise OtherArrayError(f"{name} holds {dtype} and no numbers; save uint8 or float numbers with np.save")
    return shape, fortran_order, dtype, len(_MAGIC) + 2 + width + size


def _refuse(name: str, why: str, cause: Exception | None = None) -> NoReturn:
    raise DigitError(f"{name} is not a .npy file ({why}); {_WANTED}") from cause
