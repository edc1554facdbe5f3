"""NumPy's .npy files, read without trust: no pickle runs, and no header claims more than the file holds."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import PIXELS, as_batch
from mnist_runtime.errors import DigitError, FileReadError
from mnist_runtime.io.files import reading

WANTED = "give a .npy file as np.save writes it"
_STREAM_LIMIT = 2**30  # bytes; a stream has to be held in memory


class OtherArrayError(DigitError):
    """A whole array, of something else than digits."""


_Header: TypeAlias = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether in Fortran order, dtype."""
_HEADER_LIMIT = 10_000  # bytes; NumPy's own, which it looks at only once it has read as many as are claimed
_PIECE = 2**20  # bytes read at a time from a stream that may hold less than it claims


@dataclass(frozen=True)
class NpyFile:
    """A whole .npy file of digits, of which only the header has been read."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int
    """Bytes of the header."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read the header of the .npy file at `path`, and hold it against the file's size and the shapes of digits.

        Raises:
            FileMissingError: there is no such file.
            FileReadError: it is a folder, or cannot be read.
            DigitError: it is not a whole .npy of digits, or holds a pickle.
        """
        with _opened(path) as (file, (shape, fortran_order, dtype)):
            offset = file.tell()
        _check_digits(shape, dtype, str(path))
        return cls(Path(path), shape, dtype, fortran_order, offset)

    def __len__(self) -> int:
        """Digits in the file."""
        return prod(self.shape) // PIXELS

    def digits(self, start: int, stop: int) -> NDArray[Any]:
        """Read the digits from `start` to before `stop`, `[stop - start, 784]`; no others are held in memory.

        They are read, not left mapped: a mapped file that somebody truncates kills the process.

        Raises:
            FileReadError: the file has changed since, or cannot be read.
        """
        if self.fortran_order:
            whole = open_npy(self.path)
            return as_batch(whole)[start:stop] if len(self) == 1 else as_batch(whole[start:stop])
        offset = self.offset + start * PIXELS * self.dtype.itemsize
        with reading(self.path, WANTED), self.path.open("rb") as file:  # np.fromfile turns a Ctrl-C into a SystemError
            file.seek(offset)
            data = file.read((stop - start) * PIXELS * self.dtype.itemsize)
        if len(data) < (stop - start) * PIXELS * self.dtype.itemsize:
            raise FileReadError(f"{self.path} was cut short while it was read; give it when it is complete")
        return np.frombuffer(data, self.dtype).reshape(-1, PIXELS)


def open_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Map the .npy file at `path` read-only; rows are read from disk when they are used.

    Raises:
        FileMissingError: there is no such file.
        FileReadError: it is a folder, or cannot be read.
        DigitError: it is not a whole .npy of numbers, or holds a pickle.
    """
    with _opened(path) as (file, (shape, fortran_order, dtype)):
        if not prod(shape):
            return np.empty(shape, dtype)
        flat: NDArray[Any] = np.memmap(file, dtype, mode="r", offset=file.tell(), shape=(prod(shape),))
        return flat.reshape(shape, order="F" if fortran_order else "C")


def read_npy(stream: BinaryIO, name: str) -> NDArray[Any]:
    """Read one .npy array of numbers, of at most 1 GiB, from a stream; `name` is for the errors.

    Raises:
        DigitError: it is not a whole .npy of numbers, or holds a pickle.
    """
    return _body(stream, name, _header(stream, name))


def read_digits(stream: BinaryIO, name: str) -> NDArray[Any]:
    """As `read_npy`, of digits: any other shape or dtype is refused before it is read."""
    header = shape, _, dtype = _header(stream, name)
    _check_digits(shape, dtype, name)
    return _body(stream, name, header)


def stream_digits(stream: BinaryIO, size: int, name: str, chunk: int) -> tuple[int, Iterator[NDArray[Any]]]:
    """Read the header of a whole .npy of digits that is no file of this machine; `name` is for the errors.

    Args:
        stream: At the start of the .npy.
        size: Bytes that it holds.
        name: Of the .npy.
        chunk: Digits to read at a time.

    Returns:
        The number of digits, and them, `[n, 784]` each, read as they are asked for.

    Raises:
        DigitError: it is no whole .npy of digits, or in Fortran order.
    """
    shape, fortran_order, dtype = _header(stream, name)
    _check_whole(shape, dtype, size - stream.tell(), name)
    _check_digits(shape, dtype, name)
    if fortran_order:
        raise DigitError(f"{name} is in Fortran order, its digits scattered; save it with np.ascontiguousarray")
    count = prod(shape) // PIXELS

    def chunks() -> Iterator[NDArray[Any]]:
        for start in range(0, count, chunk):
            wanted = min(chunk, count - start) * PIXELS * dtype.itemsize
            data = stream.read(wanted)
            if len(data) < wanted:
                raise DigitError(f"{name} was cut short while it was read; give it when it is complete")
            yield np.frombuffer(data, dtype).reshape(-1, PIXELS)

    return count, chunks()


def _body(stream: BinaryIO, name: str, header: _Header) -> NDArray[Any]:
    """Read what follows the header, a piece at a time: memory grows with what is there, not with what is claimed."""
    shape, fortran_order, dtype = header
    wanted = prod(shape) * dtype.itemsize
    if wanted > _STREAM_LIMIT:
        raise DigitError(f"{name} holds more than {_STREAM_LIMIT >> 30} GiB; save it to a .npy file and give its path")
    data = bytearray()
    while len(data) < wanted and (piece := stream.read(min(_PIECE, wanted - len(data)))):
        data += piece
    _check_whole(shape, dtype, len(data), name)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, _Header]]:
    """Open a .npy file that holds at least what its header claims; it stands at the first number."""
    with reading(path, WANTED), Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileReadError(f"{path} is a pipe or a device, and has to be a file here; save it and give its path")
        if not status.st_size:
            raise DigitError(f"{path} is empty; {WANTED}")
        header = shape, _, dtype = _header(file, str(path))
        _check_whole(shape, dtype, status.st_size - file.tell(), str(path))
        yield file, header


def _header(file: BinaryIO, name: str) -> _Header:
    """Parse the header; what it claims is still to be checked."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError as error:
        _refuse(name, "it does not begin as one", error)
    try:
        if version not in ((1, 0), (2, 0)):
            _refuse(name, f"its format version {version} is not 1.0 or 2.0")
        length = file.read(2 if version == (1, 0) else 4)
        if int.from_bytes(length, "little") > _HEADER_LIMIT:
            _refuse(name, f"its header claims more than {_HEADER_LIMIT:,} bytes")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(io.BytesIO(length + file.read(int.from_bytes(length, "little"))))
        np.broadcast_to(np.empty((), dtype), shape)  # takes no memory, and fails where no such shape can exist
    except DigitError:
        raise
    except Exception as error:  # noqa: BLE001  # the parser reads Python literals, and raises what that runs into
        _refuse(name, str(error).splitlines()[0] if str(error) else type(error).__name__, error)
    if dtype.hasobject:
        raise OtherArrayError(f"{name} holds pickled Python objects, which are never loaded; save numbers with np.save")
    if dtype.kind not in "biufc":
        raise OtherArrayError(f"{name} holds {dtype}, and digits are numbers; save uint8 or float digits with np.save")
    return shape, fortran_order, dtype


def _check_whole(shape: tuple[int, ...], dtype: np.dtype[Any], present: int, name: str) -> None:
    missing = prod(shape) * dtype.itemsize - present
    if missing > 0:
        raise DigitError(f"{name} is cut short by {missing:,} bytes of its {dtype} {shape}; copy or save it again")


def _check_digits(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    try:
        as_batch(np.broadcast_to(np.empty((), dtype), shape))  # an array of that shape in the memory of one number
    except DigitError as error:
        raise OtherArrayError(f"{name}: {error}") from error


def _refuse(name: str, why: str, cause: Exception | None = None) -> NoReturn:
    raise DigitError(f"{name} is not a .npy file ({why}); {WANTED}") from cause
