"""The input contract: what a digit is, which arrays are digits, and why others are refused.

A digit is 28x28 pixels, white ink on black, flattened row by row to 784. Its intensities 0-255 reach a model as
`intensity / 256` in float32, as in the lab's `mnist.pkl.gz`; the division is exact in binary floating point.
"""

import os
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnist_runtime.errors import DigitError, first_line

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
_SHAPES = "(784,), (28, 28), (28, 28, 1), (N, 784), (N, 28, 28), (N, 1, 28, 28) or (N, 28, 28, 1)"
_MEAN, _STD = 0.1307, 0.3081  # of MNIST's pixels, by which torchvision's examples normalise
_OVERSHOOT = -0.4  # between what cubic splines reach on rotated digits, some -0.25, and -_MEAN / _STD, -0.424


def as_digits(x: ArrayLike) -> Intensities | Pixels:
    """Check `x` against the input contract and return it as a batch.

    Args:
        x: One digit, `(784,)`, `(28, 28)` or `(28, 28, 1)`, or many, `(N, 784)`, `(N, 28, 28)`, `(N, 1, 28, 28)` or
            `(N, 28, 28, 1)`; N may be 0. Integers must lie within 0-255, floats within [0, 1]; True is ink, 255.

    Returns:
        uint8 `[N, 784]` for integers and booleans, float32 `[N, 784]` for floats; a view of `x` where that is possible.

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
    if dtype.kind not in "buif":
        raise DigitError(
            f"the dtype is {dtype}, and digits are bool, uint8 (0-255) or floats (0-1); convert with "
            "np.asarray(x).astype(np.uint8) or np.asarray(x).astype(np.float32)"
        )
    match shape:
        case (784,) | (28, 28) | (28, 28, 1):
            return 1
        case (n, 784) | (n, 28, 28) | (n, 1, 28, 28) | (n, 28, 28, 1):
            return n
        case (_, 785):
            advice = "the 785th column is the label; give x[:, 1:] if it comes first, x[:, :-1] if it comes last"
        case (784, _):
            advice = "give the transpose, x.T"
        case (28, 28, _):
            advice = "give x.transpose(2, 0, 1) if the last axis counts digits, and one channel if it counts colours"
        case (n, *rest) if prod(rest) == PIXELS:
            advice = f"give x.reshape({n}, {PIXELS})"
        case _:
            advice = "read pictures of digits with Classifier.read, which takes files and Pillow images"
    raise DigitError(f"the shape is {shape}, and digits are {_SHAPES}; {advice}")


def as_pixels(digits: Intensities | Pixels) -> Pixels:
    """Scale checked digits, uint8 or float32 `[N, 784]`, to float32 `intensity / 256`; floats pass unchanged.

    >>> as_pixels(np.array([[0, 255]], dtype=np.uint8))
    array([[0.        , 0.99609375]], dtype=float32)
    """
    if digits.dtype == _FLOAT32:
        return digits  # type: ignore[return-value]
    return np.asarray(np.multiply(digits, np.float32(1 / LEVELS), dtype=np.float32))


def as_intensities(digits: Intensities | Pixels) -> Intensities:
    """Turn checked digits, uint8 or float32 `[N, 784]`, into uint8 intensities; floats to the nearest, up to 255.

    >>> as_intensities(np.array([[0.0, 0.5, 200 / 255, 1.0]], np.float32))
    array([[  0, 128, 201, 255]], dtype=uint8)
    """
    if digits.dtype == _UINT8:
        return digits  # type: ignore[return-value]
    scaled = np.rint(digits * np.float32(LEVELS))
    return np.asarray(np.minimum(scaled, LEVELS - 1, out=scaled).astype(np.uint8))


def suspicion(digits: Intensities | Pixels) -> str | None:
    """Return a warning if checked digits are probably wrong, else None.

    Digits without an intensity above 1 are nearly black; digits with bright rims probably have dark ink.

    >>> suspicion(np.eye(784, dtype=np.uint8))
    'no intensity is above 1 of 255, so the digits are nearly blank; ...
    """
    if digits.dtype == _UINT8 and digits.any() and digits.max() == 1:
        return (
            "no intensity is above 1 of 255, so the digits are nearly blank; if 1 is ink, give x.astype(bool), and if "
            "they were scaled to 0-1 before they became integers, give the floats"
        )
    images = as_pixels(digits).reshape(-1, HEIGHT, WIDTH)
    if not images.size:
        return None
    rim = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    if rim.mean() > 0.5:
        return (
            "the rims of the digits are bright, and digits are white on black; if these are not, invert them (--invert)"
        )
    return None


@dataclass(frozen=True)
class Orientation:
    """Turns that checked digits need before they are white on black, row by row; none by default."""

    invert: bool = False
    """True to exchange black and white."""
    transpose: bool = False
    """True to exchange rows and columns."""

    def turned(self, digits: Intensities | Pixels) -> Intensities | Pixels:
        """Turn checked digits, uint8 or float32 `[N, 784]`."""
        digits = inverted(digits) if self.invert else digits
        return transposed(digits) if self.transpose else digits


UPRIGHT = Orientation()


def inverted(digits: Intensities | Pixels) -> Intensities | Pixels:
    """Exchange black and white of checked digits, in a copy.

    >>> inverted(np.array([[0, 255]], dtype=np.uint8)), inverted(np.array([[0, 1]], dtype=np.float32))
    (array([[255,   0]], dtype=uint8), array([[0.99609375, 0.        ]], dtype=float32))
    """
    if digits.dtype == _UINT8:
        return np.subtract(LEVELS - 1, digits, dtype=np.uint8)
    return np.asarray(np.maximum(np.float32((LEVELS - 1) / LEVELS) - digits, 0))


def transposed(digits: Intensities | Pixels) -> Intensities | Pixels:
    """Exchange rows and columns of each checked digit, in a copy; EMNIST's files hold digits so."""
    images: NDArray[Any] = digits.reshape(-1, HEIGHT, WIDTH).transpose(0, 2, 1)
    return np.ascontiguousarray(images).reshape(-1, PIXELS)


def _as_array(x: ArrayLike) -> NDArray[Any]:
    if isinstance(x, (str, bytes, os.PathLike)) or type(x).__module__.startswith("PIL."):
        raise DigitError(
            f"the input is of type {type(x).__name__}, and digits are arrays; "
            "read pictures of digits with Classifier.read"
        )
    if hasattr(x, "toarray"):  # of SciPy
        raise DigitError("the input is a sparse matrix, and digits are arrays; give x.toarray()")
    if np.ma.is_masked(x):
        raise DigitError("some pixels are masked; say what they are with x.filled(0), where 0 is black")
    try:
        return np.asarray(x)
    except RuntimeError as error:  # torch: "Can't call numpy() on Tensor that requires grad"
        raise DigitError(f"{first_line(error)} Give x.detach().cpu().numpy()") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise DigitError(f"not an array of numbers ({error}); give uint8 or float digits of shape {_SHAPES}") from error


def _is_unit_float32(x: NDArray[np.float32]) -> bool:
    """Return True if all values are in [0, 1], in one pass; False may also mean a valid -0.0.

    As unsigned integers, the bits of the floats from 0 to 1 are those from 0 to the bits of 1.0 (IEEE 754 orders
    positive floats as it does their bits), and every negative number, infinity and NaN lies above.
    """
    bits = x.view(_UINT32)
    if len(x) == 1:
        return bool(bits.item(bits.argmax()) <= _BITS_OF_ONE)  # a third of the time that max takes
    return bool(bits.max() <= _BITS_OF_ONE)


def _in_range(batch: NDArray[Any]) -> Intensities | Pixels:
    """Check every value of `[N, 784]`, and convert integers to uint8 and floats to float32."""
    if batch.dtype == np.bool_:
        return np.asarray(np.multiply(batch, LEVELS - 1, dtype=np.uint8))
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
    if np.isinf([low, high]).any():
        return "there is an infinity among the pixels, and all must lie within [0, 1]; fix or drop that digit"
    if low > _OVERSHOOT and high < 1 - _OVERSHOOT:
        return (
            f"floats must lie within [0, 1], and these reach from {low:.9g} to {high:.9g}; if an interpolation went "
            "too far, give np.clip(x, 0, 1)"
        )
    if low < 0:
        back = "(x + 1) / 2" if low == -1 and high <= 1 else f"np.clip(x * {_STD} + {_MEAN}, 0, 1)"
        cause = "scaled to [-1, 1]" if low == -1 and high <= 1 else f"normalised by {_MEAN} and {_STD}"
        return f"floats must lie within [0, 1], and these reach {low:g}; if they were {cause}, give {back}"
    return (
        f"floats must lie within [0, 1] (intensity / 256), and these reach {high:g}; "
        "divide 0-255 intensities by 256, or give them as uint8"
    )
