"""Pickles that hold NumPy arrays and nothing else, read without trust.

A pickle is a programme that calls what it names. This unpickler follows the recipe of
https://docs.python.org/3/library/pickle.html#restricting-globals: the few names that arrays need stand for functions
of this module, which build arrays from the file's own bytes, and every other name is refused.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.errors import first_line
from mnist_train.errors import DataError

LIMIT = 2**30
"""Largest pickle, in bytes, uncompressed; the lab's has 222 million."""

_CHUNK = 2**20  # bytes
_MEMO_LIMIT = 2**16  # the unpickler's memo is a list as long as the largest index that the pickle names
# No array needs a dict, which could set attributes of functions, nor a set; hashing a deep nest overflows the C stack.
_REFUSED = {"DICT", "EMPTY_DICT", "EMPTY_SET", "FROZENSET"}
_DTYPES = frozenset(["b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
_REMEDY = "give --data bundled, or save the arrays as .npz or .npy"


def load_arrays(file: io.BufferedIOBase, name: str) -> Any:
    """Read one pickle of arrays in nested tuples or lists, of any protocol, from Python 2 or 3.

    Args:
        file: The pickle, uncompressed; at most 1 GiB of it is read.
        name: Name of the file, for error messages.

    Returns:
        NumPy arrays with the shapes and dtypes that were pickled, in tuples nested like the pickled ones.

    Raises:
        DataError: the pickle holds or calls anything else, is cut short, or is larger than 1 GiB.
    """
    data = read_stream(file, LIMIT, name)
    try:
        _check_opcodes(data)
        data.seek(0)
        return _to_arrays(_ArrayUnpickler(data, encoding="latin-1").load())  # Python 2 kept an array's bytes as a str
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        raise DataError(f"{name} is not a whole pickle of arrays alone ({first_line(error)}); {_REMEDY}") from error


def read_stream(file: io.BufferedIOBase, limit: int, name: str) -> io.BytesIO:
    """Read all of `file`, at most `limit` bytes, in memory that grows with what arrives.

    Raises:
        DataError: the stream is longer.
    """
    buffer = io.BytesIO()
    while chunk := file.read(_CHUNK):
        buffer.write(chunk)
        if buffer.tell() > limit:
            raise DataError(
                f"{name} unpacks to more than {limit >> 20:,} MiB; give the arrays as .npy files in a folder"
            )
    buffer.seek(0)
    return buffer


def _check_opcodes(data: io.BytesIO) -> None:
    """Parse the pickle without running it; a length beyond the end of the data is a ValueError here."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _REFUSED:
            raise ValueError(f"it holds a {opcode.name}, which no array needs")
        if opcode.name.endswith("PUT") and int(argument or 0) > _MEMO_LIMIT:
            raise ValueError("it asks for memory to no purpose")


class _Array:
    """An array under construction: empty until its state comes."""

    __slots__ = ("array",)

    def __init__(self, array: NDArray[Any] | None = None) -> None:
        self.array = array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        self.array = _from_buffer(data, dtype, shape, "F" if fortran_order else "C").array


class _Dtype:
    """A dtype of plain numbers. NumPy's own would trust a state that declares bytes to be Python objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: object) -> None:
        if code.lstrip("<>|=") not in _DTYPES:
            raise ValueError(f"the dtype {code[:20]!r} fits neither digits nor labels")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _from_buffer(data: bytes | str, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """Return an array over the bytes that the pickle holds; NumPy raises if `shape` claims another number of them."""
    if isinstance(data, str):  # from Python 2
        data = data.encode("latin-1")
    return _Array(np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C"))


_FUNCTIONS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): lambda: None,  # only ever an argument
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),  # its shape is a dummy, and takes no memory here
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,  # protocol 5
    ("_codecs", "encode"): lambda text, _: text.encode("latin-1"),  # bytes, in protocols 0 to 2
    ("__builtin__", "bytes"): lambda: b"",  # no bytes, in protocols 0 to 2
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that resolves names in `_FUNCTIONS` and imports nothing."""

    def find_class(self, module: str, name: str, /) -> Callable[..., object]:
        """Return the function for a name that arrays need."""
        if function := _FUNCTIONS.get((module.replace("numpy._core.", "numpy.core."), name)):  # NumPy 2 renamed it
            return function
        raise ValueError(f"it wants {module}.{name}, which could run code")


def _to_arrays(value: object, depth: int = 4) -> Any:
    """Return the finished arrays of a shallow nest of few values, which is all that a data set needs."""
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, tuple | list) and len(value) <= 8 and depth:
        return tuple(_to_arrays(item, depth - 1) for item in value)
    raise ValueError("it holds more than arrays in tuples")
