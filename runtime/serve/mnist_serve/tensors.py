"""One tensor of the protocol, as JSON or as little-endian bytes, and the NumPy array it stands for.

What is read is checked before it is used: sizes before memory is taken, then every value (`mnist_runtime.digits`).
"""

from collections.abc import Sequence
from itertools import chain
from reprlib import Repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import PIXELS, Intensities, Pixels, as_digits
from mnist_serve.errors import RequestError

DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1"), "INT64": np.dtype("<i8")}
"""The protocol's names of what we exchange, in the byte order of its binary form."""

DIGIT_DATATYPES = ("FP32", "UINT8")
"""What digits may be: intensity / 256, or raw intensities 0-255."""

_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring = 1, 40
_KINDS: dict[str, set[type]] = {"FP32": {int, float}, "UINT8": {int}}


def check_shape(shape: object) -> int:
    """Return N of a shape `[N, 784]`, N from 0.

    Raises:
        RequestError: it is another one, or none.
    """
    if type(shape) is list and len(shape) == 2 and {*map(type, shape)} == {int}:
        count, pixels = shape
        if count >= 0 and pixels == PIXELS:
            return int(count)
    raise RequestError(f"the shape of pixels is {short(shape)}, and must be [N, {PIXELS}]; flatten every digit")


def from_binary(body: bytes, start: int, datatype: str, count: int) -> Intensities | Pixels:
    """Read `count` digits from all bytes after `start`; a view of them where the machine's byte order allows.

    Raises:
        RequestError: there are more or fewer bytes than that.
        DigitError: a value is no pixel.
    """
    dtype, size = DATATYPES[datatype], len(body) - start
    if size != count * PIXELS * dtype.itemsize:
        raise RequestError(
            f"the shape [{count}, {PIXELS}] of {datatype} takes {count * PIXELS * dtype.itemsize:,} bytes, and pixels "
            f"has {size:,}; make shape and data agree"
        )
    return as_digits(np.frombuffer(body, dtype, offset=start).reshape(count, PIXELS))


def from_json(data: object, datatype: str, count: int) -> Intensities | Pixels:
    """Read `count` digits from a flat list of `count` x 784 numbers, or a list of `count` lists of 784.

    Raises:
        RequestError: it is neither.
        DigitError: a value is no pixel.
    """
    if type(data) is not list:
        raise RequestError(f"the data of pixels is {short(data)}, and must be a list of numbers")
    values = _flat(data, count) if data and type(data[0]) is list else data
    if len(values) != count * PIXELS:
        raise RequestError(
            f"the shape [{count}, {PIXELS}] takes {count * PIXELS:,} values, and the data of pixels has "
            f"{len(values):,}; make shape and data agree"
        )
    kinds = set(map(type, values)) - _KINDS[datatype]
    if kinds:
        wanted = "whole numbers from 0 to 255" if datatype == "UINT8" else "numbers"
        raise RequestError(f"{datatype} data are {wanted}, and there is a {_json_name(kinds.pop())} among them")
    try:
        array = np.array(values, np.int64 if datatype == "UINT8" else np.float64)
    except OverflowError as error:
        raise RequestError(f"there is a number among the data of pixels that no {datatype} can hold") from error
    return as_digits(array.reshape(count, PIXELS))


def to_binary(array: NDArray[Any], datatype: str) -> bytes:
    """The little-endian bytes of an array, row by row."""
    return array.astype(DATATYPES[datatype], copy=False).tobytes()


def to_json(array: NDArray[Any]) -> list[Any]:
    """The values of an array, flat, row by row."""
    values: list[Any] = array.ravel().tolist()
    return values


def short(value: object) -> str:
    """A value of JSON as a sentence can hold it, whatever its size.

    >>> short([1] * 10**6), short({"a": 1}), short("x" * 10**6)
    ('[1, 1, 1, 1, 1, 1, ...]', 'an object', "'xxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxx'")
    """
    return "an object" if type(value) is dict else _REPR.repr(value)


def _flat(rows: Sequence[Any], count: int) -> list[Any]:
    if len(rows) != count or any(type(row) is not list or len(row) != PIXELS for row in rows):
        raise RequestError(f"nested data of shape [{count}, {PIXELS}] are {count:,} lists of {PIXELS} numbers each")
    return list(chain.from_iterable(rows))


def _json_name(kind: type) -> str:
    return {bool: "boolean", str: "string", float: "fraction", list: "list", dict: "object"}.get(kind, "null")
