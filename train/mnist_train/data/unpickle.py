"""Pickles that hold NumPy arrays and nothing else, read without trust.

A pickle is a program that calls what it names. This unpickler follows the recipe of
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
from mnist_runtime.io.files import read_pieces
from mnist_train.errors import DataError

LIMIT = 2**30
"""Largest pickle, in bytes, uncompressed; the lab's has 222 million."""

# Six arrays take 200 instructions. Each instruction may make an object, and the unpickler's memo is a list as long as
# the largest index in the pickle.
_OPCODE_LIMIT = 10_000
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
    data = read_pieces(file, LIMIT)
    if len(data) > LIMIT:
        raise DataError(f"{name} unpacks to more than {LIMIT >> 20:,} MiB; give the arrays as .npy files in a folder")
    try:
        _check_opcodes(data)
        return _to_arrays(_ArrayUnpickler(data).load())
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        raise DataError(f"{name} is not a whole pickle of arrays alone ({first_line(error)}); {_REMEDY}") from error


def _check_opcodes(data: bytes) -> None:
    """Parse the pickle without running it; a length beyond the end of the data is a ValueError here."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count == _OPCODE_LIMIT:
            raise ValueError(f"it holds more than {_OPCODE_LIMIT:,} instructions")
        if opcode.name in _REFUSED:
            raise ValueError(f"it holds a {opcode.name}, which no array needs")
        if opcode.name.endswith("PUT") and int(argument or 0) > _OPCODE_LIMIT:
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

    def __init__(self, code: str | bytes, *_: object) -> None:
        code = code.decode() if isinstance(code, bytes) else code  # from Python 2
        if code.lstrip("<>|=") not in _DTYPES:
            raise ValueError(f"the dtype {code[:20]!r} fits neither digits nor labels")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """Return an array over the bytes in the pickle; NumPy raises if their number does not fit `shape`."""
    return _Array(np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C"))


_FUNCTIONS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): lambda: None,  # only ever an argument
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),  # its shape is a dummy, and takes no memory here
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,  # protocol 5
    ("__builtin__", "bytes"): lambda: b"",  # no bytes, in protocols 0 to 2
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that resolves names in `_FUNCTIONS` and imports nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")  # the str of Python 2
        self._room = len(data)

    def find_class(self, module: str, name: str, /) -> Callable[..., object]:
        """Return the function for a name that arrays need."""
        if (module, name) == ("_codecs", "encode"):  # bytes, in protocols 0 to 2
            return self._encode
        if function := _FUNCTIONS.get((module.replace("numpy._core.", "numpy.core."), name)):  # NumPy 2 renamed it
            return function
        raise ValueError(f"it wants {module}.{name}, which could run code")

    def _encode(self, text: str, _: object) -> bytes:
        """Encode text that stands for bytes, at most as much as the pickle holds: repeats could fill the memory."""
        self._room -= len(text)
        if self._room < 0:
            raise ValueError("it holds less text than it encodes")
        return text.encode("latin-1")


def _to_arrays(value: object, depth: int = 4) -> Any:
    """Return the finished arrays of a few shallowly nested values, which is all that a data set needs."""
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, tuple | list) and len(value) <= 8 and depth:
        return tuple(_to_arrays(item, depth - 1) for item in value)
    raise ValueError("it holds more than arrays in tuples")
