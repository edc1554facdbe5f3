"""Pickles that hold NumPy arrays and nothing else, read without trust: nothing they name is imported, let alone called.

A pickle is a programme. Here its opcodes are first read through, so that none can claim more memory than the file
has bytes; then it is run with stand-ins for the few names that an array needs, and every other name is refused.
"""

import io
import pickle
import pickletools
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mnist_train.data.streams import read_stream
from mnist_train.errors import DataError

LIMIT = 2**30  # bytes, unpacked; the lab's file has 222 million

_NEEDED = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP GLOBAL STACK_GLOBAL REDUCE BUILD"
    " NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT"
    " STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
    " BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
    " EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS"
    " PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE"
)
_OPCODES = frozenset(_NEEDED.split())
_MEMO_LIMIT = 2**16  # the unpickler's memo is a list as long as the largest index that the pickle names
_INSTEAD = "unpickling it could run code; give --data bundled, or arrays saved as .npz or .npy"


def load_arrays(file: io.BufferedIOBase, name: str) -> Any:
    """Read one pickle of arrays in nested tuples or lists, of any protocol, from Python 2 or 3.

    Args:
        file: Holds the pickle; at most 1 GiB of it is read.
        name: Of the file, for the errors.

    Returns:
        The same nesting, as tuples, of NumPy arrays with the shapes and dtypes that were pickled.

    Raises:
        DataError: it holds or calls anything else, is cut short, or is larger than 1 GiB.
    """
    data = read_stream(file, LIMIT, name)
    try:
        _check_opcodes(data, name)
        data.seek(0)
        return _finished(_ArrayUnpickler(data, name).load(), name)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        raise DataError(f"{name} is not a whole pickle of arrays ({error}); download or save it again") from error


def _check_opcodes(data: io.BytesIO, name: str) -> None:
    """Go through the programme without running it; a length that the bytes do not bear out is a ValueError."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise DataError(f"{name} is a pickle with {opcode.name}, which no array needs; {_INSTEAD}")
        if opcode.name.endswith("PUT") and int(argument or 0) > _MEMO_LIMIT:
            raise DataError(f"{name} is a pickle that asks for memory to no purpose; {_INSTEAD}")


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the names that NumPy's arrays are pickled by, each as a stand-in, and no other."""

    def __init__(self, data: io.BytesIO, name: str) -> None:
        super().__init__(data, encoding="latin-1")  # Python 2 kept an array's bytes as a str
        self._name = name

    def find_class(self, module: str, name: str, /) -> Any:
        """Never imports: only what stands in the table can be named."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise DataError(f"{self._name} is a pickle that wants {module}.{name}; {_INSTEAD}") from None


class _StandIn:
    """What a pickle may name: without attributes to set, and not callable unless a subclass says so."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise ValueError("it sets the state of a name")


class _Encode(_StandIn):
    """`_codecs.encode(text, "latin1")`, by which protocols 0 to 2 carry bytes."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in {"latin1", "latin-1"}:
            raise ValueError(f"it encodes as {encoding}")
        return text.encode("latin-1")


class _NoBytes(_StandIn):
    """`bytes()`, by which protocols 0 to 2 carry the data of an empty array."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Dtype:
    """`numpy.dtype(code, align, copy)` of plain numbers."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: object) -> None:
        if code.lstrip("<>|=") not in {"b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"}:
            raise ValueError(f"an array of dtype {code[:20]!r} is no digits and no labels")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _MakeDtype(_StandIn):
    __slots__ = ()

    def __call__(self, code: str, *_: object) -> _Dtype:
        return _Dtype(code)


class _Array:
    """An array in the making: empty until its state comes."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        self.array = _from_bytes(data, dtype, shape, "F" if fortran_order else "C")


class _Reconstruct(_StandIn):
    """`_reconstruct(numpy.ndarray, shape, code)`: the shape is a dummy, and no memory is taken for it."""

    __slots__ = ()

    def __call__(self, *_: object) -> _Array:
        return _Array()


class _FromBuffer(_StandIn):
    """`_frombuffer(data, dtype, shape, order)`, as protocol 5 has it."""

    __slots__ = ()

    def __call__(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
        array = _Array()
        array.array = _from_bytes(data, dtype, shape, order)
        return array


def _from_bytes(data: bytes | str, dtype: _Dtype, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    """The array over the very bytes that the pickle holds; their number must be what the shape claims."""
    if isinstance(data, str):  # from Python 2
        data = data.encode("latin-1")
    if prod(shape) * dtype.dtype.itemsize != len(data) or min(shape, default=0) < 0:
        raise ValueError(f"an array claims the shape {shape} and holds {len(data):,} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


_CORES = ("numpy.core", "numpy._core")  # NumPy 1 and 2
_STAND_INS: dict[tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _StandIn(),
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _Encode(),
    ("__builtin__", "bytes"): _NoBytes(),
    **{(f"{core}.multiarray", "_reconstruct"): _Reconstruct() for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _FromBuffer() for core in _CORES},
}


def _finished(value: Any, name: str, depth: int = 4) -> Any:
    """Put arrays in the place of their makings; only a shallow nest of few values is a data set."""
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, tuple | list) and len(value) <= 8 and depth:
        return tuple(_finished(item, name, depth - 1) for item in value)
    raise DataError(f"{name} holds more than arrays in tuples; {_INSTEAD}")
