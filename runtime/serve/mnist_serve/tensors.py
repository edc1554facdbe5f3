"""Conversion of a tensor of the protocol, from JSON or little-endian bytes, to a NumPy array.

Sizes are checked before memory is allocated, then every value (`mnist_runtime.digits`).
"""

from collections.abc import Sequence
from itertools import chain
from reprlib import Repr
from typing import Any

import numpy as np

from mnist_runtime.digits import PIXELS, Intensities, Pixels, as_digits
from mnist_serve.errors import RequestError

DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1"), "INT64": np.dtype("<i8")}
"""NumPy dtype per datatype of the protocol, in the byte order of its binary form."""

DIGIT_DATATYPES = ("FP32", "UINT8")
"""Datatypes of digits: intensity / 256, or raw intensities 0-255."""

_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring = 1, 40


def check_shape(shape: object) -> int:
    """Return N of a shape `[N, 784]`, N from 0.

    Raises:
        RequestError: the shape is not `[N, 784]`.
    """
    if type(shape) is list and len(shape) == 2 and {*map(type, shape)} == {int}:
        count, pixels = shape
        if count >= 0 and pixels == PIXELS:
            return int(count)
    raise RequestError(f"the shape of pixels is {short(shape)}; it must be [N, {PIXELS}]; flatten each digit")


def from_binary(body: bytes, start: int, datatype: str, count: int) -> Intensities | Pixels:
    """Return `count` digits from the bytes after `start`, a view of them where the machine's byte order allows.

    Raises:
        RequestError: there are more or fewer bytes than `count` digits have.
        DigitError: a value is not a pixel.
    """
    dtype, size = DATATYPES[datatype], len(body) - start
    if size != count * PIXELS * dtype.itemsize:
        needed = f"the shape [{count}, {PIXELS}] of {datatype} needs {count * PIXELS * dtype.itemsize:,} bytes"
        raise RequestError(f"{needed}, but pixels has {size:,}; make shape and data agree")
    return as_digits(np.frombuffer(body, dtype, offset=start).reshape(count, PIXELS))


def from_json(data: object, datatype: str, count: int) -> Intensities | Pixels:
    """Return `count` digits from a flat list of `count` x 784 numbers, or a list of `count` lists of 784.

    Raises:
        RequestError: `data` is neither.
        DigitError: a value is not a pixel.
    """
    if type(data) is not list:
        raise RequestError(f"the data of pixels is {short(data)}; it must be a list of numbers")
    values = _flat(data, count) if data and type(data[0]) is list else data
    if len(values) != count * PIXELS:
        needed = f"the shape [{count}, {PIXELS}] needs {count * PIXELS:,} values"
        raise RequestError(f"{needed}, but the data of pixels has {len(values):,}; make shape and data agree")
    kinds = set(map(type, values))
    wanted = "whole numbers from 0 to 255" if datatype == "UINT8" else "numbers"
    odd = [_json_name(kind) for kind in kinds - {int, float}]
    if not odd and datatype == "UINT8" and float in kinds:
        odd = ["fraction" for value in values if value % 1]
        values = [int(value) for value in values]
    if odd:
        raise RequestError(f"{datatype} data must be {wanted}, but a {odd[0]} is among them")
    try:
        array = np.array(values, np.int64 if datatype == "UINT8" else np.float64)
    except OverflowError as error:
        raise RequestError(f"a number among the data of pixels is out of range for {datatype}") from error
    return as_digits(array.reshape(count, PIXELS))


def short(value: object) -> str:
    """Return a JSON value as text short enough for a sentence.

    >>> short([1] * 10**6), short({"a": 1}), short("x" * 10**6)
    ('[1, 1, 1, 1, 1, 1, ...]', 'an object', "'xxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxx'")
    """
    return "an object" if type(value) is dict else _REPR.repr(value)


def _flat(rows: Sequence[Any], count: int) -> list[Any]:
    if len(rows) != count or any(type(row) is not list or len(row) != PIXELS for row in rows):
        raise RequestError(f"nested data of shape [{count}, {PIXELS}] must be {count:,} lists of {PIXELS} numbers each")
    return list(chain.from_iterable(rows))


def _json_name(kind: type) -> str:
    return {bool: "boolean", str: "string", list: "list", dict: "object"}.get(kind, "null")
