"""NumPy's .npy files, read without trust: no pickle runs, and no header claims more than the file holds."""

import io
import os
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.errors import DigitError, FileMissingError, FileReadError

WANTED = "give a .npy file as np.save writes it"
_STREAM_LIMIT = 2**32  # bytes; a stream cannot be mapped, so it is held in memory


def open_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Map the .npy file at `path` read-only; rows are read from disk when they are used.

    Raises:
        FileMissingError: there is no such file.
        FileReadError: it is a folder, or cannot be read.
        DigitError: it is not a whole .npy of numbers, or holds a pickle.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            shape, fortran_order, dtype = _header(file, size, str(path))
            if not prod(shape):
                return np.empty(shape, dtype)
            flat: NDArray[Any] = np.memmap(file, dtype, mode="r", offset=file.tell(), shape=(prod(shape),))
            return flat.reshape(shape, order="F" if fortran_order else "C")
    except FileNotFoundError as error:
        raise FileMissingError(f"{path} does not exist; {WANTED}") from error
    except IsADirectoryError as error:
        raise FileReadError(f"{path} is a folder; {WANTED}") from error
    except OSError as error:
        raise FileReadError(f"{path} cannot be read ({error.strerror}); {WANTED}") from error


def read_npy(stream: BinaryIO, name: str) -> NDArray[Any]:
    """Read one .npy array, of at most 4 GiB, from a stream that cannot be mapped; `name` is for the errors.

    Raises:
        DigitError: it is not a whole .npy of numbers, or holds a pickle.
    """
    data = stream.read(_STREAM_LIMIT + 1)
    if len(data) > _STREAM_LIMIT:
        raise DigitError(f"{name} holds more than {_STREAM_LIMIT >> 30} GiB; save it to a .npy file and give its path")
    buffer = io.BytesIO(data)
    shape, fortran_order, dtype = _header(buffer, len(data), name)
    flat = np.frombuffer(data, dtype, count=prod(shape), offset=buffer.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _header(file: BinaryIO, size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parse the header and hold its claim against `size`, the bytes that are there, header included."""
    if not size:
        raise DigitError(f"{name} is empty; {WANTED}")
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            _refuse(name, f"its format version {version} is not 1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        np.broadcast_to(np.empty((), dtype), shape)  # takes no memory, and fails where no such shape can exist
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        _refuse(name, str(error).splitlines()[0] if str(error) else type(error).__name__, error)
    if dtype.hasobject:
        raise DigitError(f"{name} holds pickled Python objects, which are never loaded; save numbers with np.save")
    if dtype.kind not in "biufc":
        raise DigitError(f"{name} holds {dtype}, and digits are numbers; save uint8 or float digits with np.save")
    missing = prod(shape) * dtype.itemsize - (size - file.tell())
    if missing > 0:
        raise DigitError(f"{name} is cut short by {missing:,} bytes of its {dtype} {shape}; copy or save it again")
    return shape, fortran_order, dtype


def _refuse(name: str, why: str, cause: Exception | None = None) -> NoReturn:
    raise DigitError(f"{name} is not a .npy file ({why}); {WANTED}") from cause
