"""NumPy's .npy files, read without trust: no pickle runs, and no header claims more than the file holds."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import PIXELS, Intensities, Pixels, as_digits, count_digits
from mnist_runtime.errors import DigitError, FileReadError, first_line
from mnist_runtime.io.files import reading

_WANTED = "give a .npy file as np.save writes it"
_ARRAY_LIMIT = 2**30  # bytes that `Npy.array` holds in memory
_HEADER_LIMIT = 10_000  # bytes; NumPy's own limit, which NumPy checks only after reading the whole header
_PIECE = 2**20  # bytes read at a time from a stream that may hold less than its header claims


class OtherArrayError(DigitError):
    """A whole array of something other than digits."""


class Stream(Protocol):
    """A binary stream, open for reading."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; none only at the end."""
        ...


@dataclass(frozen=True)
class Npy:
    """A .npy array of numbers in C order, of which only the header has been read."""

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
        """Read the header of the .npy file at `path` and check its claims against the file's size.

        Raises:
            FileMissingError: there is no such file.
            FileReadError: it is a folder, a pipe or a device, or cannot be read.
            DigitError: it is not a whole .npy of numbers in C order, or holds a pickle.
        """
        with reading(path, _WANTED), Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileReadError(f"{path} is a pipe or a device, not a file; save its content to a file first")
            if not status.st_size:
                raise DigitError(f"{path} is empty; {_WANTED}")
            return cls._read_header(file, str(path), status.st_size, None)

    @classmethod
    def of_stream(cls, stream: Stream, name: str, size: int | None = None) -> Self:
        """Read the header of a .npy from a stream; `chunks` or `array` then read the rest, once.

        Args:
            stream: A stream at the start of the .npy.
            name: Name of the stream in errors.
            size: Bytes of the whole .npy, if known; the header's claims are checked against them.

        Raises:
            DigitError: it is not a whole .npy of numbers in C order, or holds a pickle.
        """
        return cls._read_header(stream, name, size, stream)

    @classmethod
    def _read_header(cls, stream: Stream, name: str, size: int | None, kept: Stream | None) -> Self:
        shape, is_fortran, dtype, offset = _header(stream, name)
        npy = cls(name, shape, dtype, offset, kept)
        if size is not None and (missing := npy._bytes - (size - offset)) > 0:
            npy._refuse_cut(missing)
        if is_fortran:
            error = DigitError if npy._is_digits() else OtherArrayError
            raise error(f"{name} is in Fortran order; save it again with np.save(path, np.ascontiguousarray(x))")
        return npy

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
            return np.frombuffer(self._read(stream, self._bytes), self.dtype).reshape(self.shape)

    def chunks(self, count: int) -> Iterator[Intensities | Pixels]:
        """Read the digits in order, checked by `as_digits`: uint8 or float32 `[n, 784]`, at most `count` at a time.

        Raises:
            OtherArrayError: the shape or dtype is not that of digits.
            FileReadError: the file cannot be read.
            DigitError: it holds less than its header claims, or values that are not a digit's.
        """
        total = len(self)
        with self._at(0) as stream:
            for start in range(0, total, count):
                yield self._digits(stream, min(count, total - start))

    def rows(self, start: int, stop: int) -> Intensities | Pixels:
        """Read the digits from `start` to before `stop` of a file; arguments of errors as for `chunks`."""
        with self._at(start) as stream:
            return self._digits(stream, stop - start)

    @property
    def _bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def _is_digits(self) -> bool:
        with contextlib.suppress(DigitError):
            return len(self) >= 0
        return False

    @contextlib.contextmanager
    def _at(self, digit: int) -> Iterator[Stream]:
        """Open the file at one of its digits; a stream stands where it is.

        Files are read and not mapped, because a mapped file that somebody truncates kills the process.
        """
        if self._stream is not None:
            yield self._stream
            return
        with reading(self.name, _WANTED), Path(self.name).open("rb") as file:
            file.seek(self.offset + digit * PIXELS * self.dtype.itemsize)
            yield file

    def _digits(self, stream: Stream, count: int) -> Intensities | Pixels:
        data = self._read(stream, count * PIXELS * self.dtype.itemsize)
        return as_digits(np.frombuffer(data, self.dtype).reshape(count, PIXELS))

    def _read(self, stream: Stream, size: int) -> bytes:
        data = stream.read(size)
        if len(data) < size:
            self._refuse_cut(size - len(data))
        return data

    def _refuse_cut(self, missing: int) -> NoReturn:
        raise DigitError(
            f"{self.name} is cut short by {missing:,} bytes of its {self.dtype} {self.shape}; copy or save it again"
        )


def _header(stream: Stream, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Parse the header: shape, Fortran order, dtype and the header's own size in bytes, its claims unchecked."""
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError as error:
        _refuse(name, "it does not begin as one", error)
    try:
        if version not in ((1, 0), (2, 0)):
            _refuse(name, f"its format version {version} is not 1.0 or 2.0")
        length = stream.read(2 if version == (1, 0) else 4)
        if int.from_bytes(length, "little") > _HEADER_LIMIT:
            _refuse(name, f"its header claims more than {_HEADER_LIMIT:,} bytes")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(io.BytesIO(length + stream.read(int.from_bytes(length, "little"))))
        np.broadcast_to(np.empty((), dtype), shape)  # takes no memory, and fails where no such shape can exist
    except DigitError:
        raise
    except Exception as error:  # noqa: BLE001  # the parser reads Python literals, and raises what that runs into
        _refuse(name, first_line(error), error)
    if dtype.hasobject:
        raise OtherArrayError(f"{name} holds pickled Python objects, which are never loaded; save numbers with np.save")
    if dtype.kind not in "biufc":
        raise OtherArrayError(f"{name} holds {dtype}, and digits are numbers; save uint8 or float digits with np.save")
    return shape, fortran_order, dtype, np.lib.format.MAGIC_LEN + len(length) + int.from_bytes(length, "little")


def _refuse(name: str, why: str, cause: Exception | None = None) -> NoReturn:
    raise DigitError(f"{name} is not a .npy file ({why}); {_WANTED}") from cause
