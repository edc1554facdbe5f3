"""The input contract: what a digit is, which arrays are digits, and why others are refused.

A digit is 28x28 pixels, white ink on black, flattened row by row to 784. Its intensities 0-255 reach a model as
`intensity / 256` in float32, as in the lab's `mnist.pkl.gz`; the division is exact in binary floating point.
"""

import os
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnist_runtime.errors import DigitError

HEIGHT = WIDTH = 28
PIXELS = HEIGHT * WIDTH  # 784
LEVELS = 256  # intensities 0..255; as floats they are k/256, at most 0.99609375
CLASSES = tuple(range(10))

Intensities: TypeAlias = NDArray[np.uint8]
"""Raw digits: uint8 `[N, 784]`, 0 black to 255 white."""

Pixels: TypeAlias = NDArray[np.float32]
"""Scaled digits: float32 `[N, 784]` within [0, 1]."""

_UINT8, _UINT32, _FLOAT32 = map(np.dtype, (np.uint8, np.uint32, np.float32))
_BITS_OF_ONE = 0x3F800000  # of the float32 1.0
_SHAPES = "(784,), (28, 28), (N, 784), (N, 28, 28) or (N, 1, 28, 28)"


def as_digits(x: ArrayLike) -> Intensities | Pixels:
    """Check `x` against the input contract and return it as a batch.

    Args:
        x: One digit, `(784,)` or `(28, 28)`, or many, `(N, 784)`, `(N, 28, 28)` or `(N, 1, 28, 28)`; N may be 0.
            Integers must lie within 0-255, floats within [0, 1].

    Returns:
        uint8 `[N, 784]` for integers, float32 `[N, 784]` for floats; a view of `x` where that is possible.

    Raises:
        DigitError: for any other shape, dtype or range, in one sentence.

    >>> as_digits(np.zeros((28, 28), dtype=np.uint8)).shape
    (1, 784)
    >>> as_digits(np.full(784, 7.5))
    Traceback (most recent call last):
    ...
    mnist_runtime.errors.DigitError: floats must lie within [0, 1] (intensity / 256), and these reach 7.5; ...
    """
    array = x if type(x) is np.ndarray else _as_array(x)
    batch = array.reshape(count_digits(array.shape, array.dtype), PIXELS)
    dtype = batch.dtype
    if dtype == _UINT8 or (dtype == _FLOAT32 and batch.size and _is_unit_float32(batch)):
        return batch
    return _in_range(batch)


def count_digits(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return N for an array of N digits, from its shape and dtype alone.

    Raises:
        DigitError: the shape or the dtype is not one of the input contract.
    """
    if dtype.kind not in "uif":
        raise DigitError(
            f"the dtype is {dtype}, and digits are uint8 (0-255) or floats (0-1); convert with "
            "x.astype(np.uint8) or x.astype(np.float32)"
        )
    match shape:
        case (784,) | (28, 28):
            return 1
        case (n, 784) | (n, 28, 28) | (n, 1, 28, 28):
            return n
    raise DigitError(f"the shape is {shape}, and digits are {_SHAPES}; read pictures of digits with Classifier.read")


def as_pixels(digits: Intensities | Pixels) -> Pixels:
    """Scale checked digits, uint8 or float32 `[N, 784]`, to float32 `intensity / 256`; floats pass unchanged.

    >>> as_pixels(np.array([[0, 255]], dtype=np.uint8))
    array([[0.        , 0.99609375]], dtype=float32)
    """
    if digits.dtype == _FLOAT32:
        return digits  # type: ignore[return-value]
    return np.asarray(np.multiply(digits, np.float32(1 / LEVELS), dtype=np.float32))


def as_intensities(digits: Intensities | Pixels) -> Intensities:
    """Turn checked digits, uint8 or float32 `[N, 784]`, into the uint8 intensities they were scaled from.

    Raises:
        DigitError: a float is not an exact multiple of 1/256, so uint8 cannot hold it.
    """
    if digits.dtype == _UINT8:
        return digits  # type: ignore[return-value]
    scaled = digits * np.float32(LEVELS)
    intensities: Intensities = np.minimum(scaled, LEVELS - 1).astype(np.uint8)
    if not np.array_equal(intensities, scaled):
        raise DigitError(
            "this model takes uint8 intensities, and these floats are not all k/256 with k from 0 to 255; "
            "use the float32 model (mnist.onnx) for them"
        )
    return intensities


def _as_array(x: ArrayLike) -> NDArray[Any]:
    if isinstance(x, (str, bytes, os.PathLike)) or type(x).__module__.startswith("PIL."):
        raise DigitError(
            f"the input is of type {type(x).__name__}, and digits are arrays; "
            "read pictures of digits with Classifier.read"
        )
    try:
        return np.asarray(x)
    except (ValueError, TypeError, OverflowError) as error:
        raise DigitError(f"not an array of numbers ({error}); give uint8 or float digits of shape {_SHAPES}") from error


def _is_unit_float32(x: NDArray[np.float32]) -> bool:
    """Return True if all values are in [0, 1], in one pass; False may also mean a valid -0.0.

    As unsigned integers, the bits of the floats from 0 to 1 are those from 0 to the bits of 1.0 (IEEE 754 orders
    positive floats as it does their bits), and every negative number, infinity and NaN lies above.
    """
    return bool(np.maximum.reduce(x.view(_UINT32), axis=None) <= _BITS_OF_ONE)


def _in_range(batch: NDArray[Any]) -> Intensities | Pixels:
    """Check every value of `[N, 784]`, and convert integers to uint8 and floats to float32."""
    kept = np.float32 if batch.dtype.kind == "f" else np.uint8
    if batch.size:
        low, high = batch.min(), batch.max()  # NaN propagates through both
        if kept is np.float32 and not (low >= 0 and high <= 1):
            raise DigitError(_float_error(low, high))
        if kept is np.uint8 and (low < 0 or high >= LEVELS):
            raise DigitError(
                f"integers must lie within 0-255, and these reach from {low} to {high}; "
                "scale them to 0-255 and convert with x.astype(np.uint8)"
            )
    checked: NDArray[Any] = batch.astype(kept, copy=False)
    return checked


def _float_error(low: np.floating[Any], high: np.floating[Any]) -> str:
    if np.isnan(low):
        return "there is a NaN among the pixels, and all must lie within [0, 1]; fix or drop that digit"
    worst = low if low < 0 else high
    return (
        f"floats must lie within [0, 1] (intensity / 256), and these reach {worst:g}; "
        "divide 0-255 intensities by 256, or give them as uint8"
    )
