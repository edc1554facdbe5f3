"""The exact network: a network of integers, and its logits.

Pixels and activations are the integers 0 to 255, weights have 8 bits. A hidden layer computes

    clip(floor((sum of weight * input + bias) / 2**shift), 0, 255)

which is ReLU and rounding in one, because its bias includes the half, `2**(shift - 1)`, that makes `floor` round to the
nearest. The last layer's sums are the logits. Below 2**24 float32 holds every integer, and scaling by a power of two is
exact, so every engine that multiplies and adds in float32 computes these very integers, in any order of summation, with
or without fused multiply-add, on any number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mnist_export.errors import ExportError
from mnist_runtime.digits import HEIGHT, WIDTH, Intensities

LIMIT = 2**24
"""Bound that no sum may reach, because float32 holds all integers up to here only."""
TOP = 255
"""Largest pixel and largest activation."""
LARGEST_SHIFT = 24
"""Largest shift in bits, after which any sum below `LIMIT` is 0; C leaves shifts by 32 or more undefined."""

_CHUNK = 250  # digits computed at a time, because the windows of a convolution take about 0.5 MB per digit

Integers: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, int, int]
"""Channels, height and width of one digit's activations."""


class InexactError(ExportError, ArithmeticError):
    """A network whose sums float32 may not hold, or whose layers do not fit one another."""


@dataclass(frozen=True)
class Linear:
    """A linear layer, for activations flattened in the order channel, row, column."""

    weight: NDArray[np.int8]
    """int8 `[outputs, inputs]`."""
    bias: NDArray[np.int32]
    """int32 `[outputs]`; in a hidden layer, includes the half that makes the shift round."""
    shift: NDArray[np.uint8] | None
    """Bits that each output loses, uint8 `[outputs]`; None in the last layer, which keeps its sums."""

    def __call__(self, x: Integers) -> Integers:
        """Compute `[N, outputs, 1, 1]` from activations `[N, channels, height, width]`."""
        sums = _multiply(x.reshape(len(x), -1), self.weight.T) + self.bias
        return _activations(sums[:, :, None, None], self.shift)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the outputs for inputs of `shape`."""
        _check_fit(self.weight.shape[1] == np.prod(shape), "linear layer", self.weight.shape, shape)
        return len(self.weight), 1, 1


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution, with the pooling that may follow."""

    weight: NDArray[np.int8]
    """int8 `[outputs, channels, height, width]`."""
    bias: NDArray[np.int32]
    """int32 `[outputs]`; includes the half that makes the shift round."""
    shift: NDArray[np.uint8]
    """Bits that each output loses, uint8 `[outputs]`."""
    stride: int = 1
    """Step in rows and columns."""
    padding: int = 0
    """Rows and columns of zeros around the input."""
    pool: int = 1
    """Rows and columns of the window whose largest activation is taken; 1 without pooling."""
    pool_stride: int = 1
    """Step of that window in rows and columns."""

    def __call__(self, x: Integers) -> Integers:
        """Compute `[N, outputs, height', width']` from activations `[N, channels, height, width]`."""
        border = (self.padding, self.padding)
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), border, border))
        windows = _windows(padded, self.weight.shape[2:], self.stride)
        columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), *windows.shape[2:4], -1)
        sums = _multiply(columns, self.weight.reshape(len(self.weight), -1).T) + self.bias
        activations = _activations(sums.transpose(0, 3, 1, 2), self.shift)
        return np.asarray(_windows(activations, (self.pool, self.pool), self.pool_stride).max(axis=(4, 5)))

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the outputs for inputs of `shape`."""
        outputs, channels, *kernel = self.weight.shape
        fits = channels == shape[0] and all(
            side + 2 * self.padding >= k for side, k in zip(shape[1:], kernel, strict=True)
        )
        _check_fit(fits, "convolution", self.weight.shape, shape)
        sides = [(side + 2 * self.padding - k) // self.stride + 1 for side, k in zip(shape[1:], kernel, strict=True)]
        _check_fit(min(sides) >= self.pool, "pooling", (self.pool, self.pool), (outputs, *sides))
        sides = [(side - self.pool) // self.pool_stride + 1 for side in sides]
        return outputs, sides[0], sides[1]


Layer: TypeAlias = Linear | Convolution


@dataclass(frozen=True)
class ExactNetwork:
    """A network of integers that float32 computes exactly; any other is refused."""

    layers: tuple[Layer, ...]
    """The layers in order; the last one is linear and has no shift."""
    exponent: int
    """Exponent of the logits' unit: a logit of the trained module is about the integer logit times `2**exponent`."""

    def __post_init__(self) -> None:
        """Prove that the network is exact.

        Raises:
            InexactError: a sum may reach 2**24, or a layer does not fit the one before it.
        """
        for number, bound in enumerate(self.bounds(), start=1):
            if bound >= LIMIT:
                raise InexactError(
                    f"sums of layer {number} may reach {bound:,}, and float32 is exact below {LIMIT:,}; "
                    "give its weights fewer bits"
                )
        *hidden, last = [layer.shift for layer in self.layers]
        if last is not None or any(shift is None for shift in hidden):
            raise InexactError("the last layer, and no other, must keep its sums; end the network in a linear layer")
        if any(shift.max() > LARGEST_SHIFT for shift in hidden if shift is not None):
            raise InexactError(f"a shift is larger than {LARGEST_SHIFT} bits; give its weights a smaller scale")
        self.shapes()

    def logits(self, digits: Intensities) -> Integers:
        """Compute the logits, int64 `[N, outputs]`, of digits uint8 `[N, 784]`."""
        starts = range(0, len(digits), _CHUNK)
        chunks = [list(self.activations(digits[start : start + _CHUNK]))[-1] for start in starts]
        return np.concatenate([np.empty((0, self.outputs, 1, 1), np.int64), *chunks])[:, :, 0, 0]

    def activations(self, digits: Intensities) -> Iterator[Integers]:
        """Yield the pixels and then each layer's outputs, int64 `[N, channels, height, width]`."""
        x = digits.reshape(-1, 1, HEIGHT, WIDTH).astype(np.int64)
        yield x
        for layer in self.layers:
            x = layer(x)
            yield x

    def bounds(self) -> list[int]:
        """Return the largest magnitude of any sum, or part of a sum, in each layer, for any pixels."""
        return [int(sum_bounds(layer.weight, layer.bias).max()) for layer in self.layers]

    def shapes(self) -> list[Shape]:
        """Return the shape of the pixels and of each layer's outputs."""
        shapes = [(1, HEIGHT, WIDTH)]
        for layer in self.layers:
            shapes.append(layer.output_shape(shapes[-1]))
        return shapes

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return self.shapes()[-1][0]

    @property
    def weights(self) -> int:
        """Number of weights and biases."""
        return sum(layer.weight.size + layer.bias.size for layer in self.layers)


def sum_bounds(weight: NDArray[np.integer[Any]], bias: NDArray[np.integer[Any]]) -> Integers:
    """Return the largest magnitude of each output's sum and of its parts, int64 `[outputs]`, over all inputs."""
    magnitudes = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1)
    return np.asarray(magnitudes * TOP + np.abs(bias.astype(np.int64)))


def _windows(x: NDArray[Any], size: tuple[int, ...], stride: int) -> NDArray[Any]:
    """View the windows of `x`, `[N, channels, height, width]`, as `[N, channels, height', width', *size]`."""
    windows: NDArray[Any] = sliding_window_view(x, size, axis=(2, 3))[:, :, ::stride, ::stride]
    return windows


def _multiply(x: NDArray[Any], weight: NDArray[np.int8]) -> Integers:
    """Multiply integer matrices as float64, because BLAS is fast and float64 holds every integer below 2**53."""
    return np.asarray((x.astype(np.float64, copy=False) @ weight.astype(np.float64)).astype(np.int64))


def _activations(sums: Integers, shift: NDArray[np.uint8] | None) -> Integers:
    """Shift and clip sums `[N, channels, height, width]`; NumPy's shift of a negative integer rounds down."""
    if shift is None:
        return sums
    return np.asarray(np.clip(sums >> shift[:, None, None].astype(np.int64), 0, TOP))


def _check_fit(fits: object, layer: str, weight: tuple[int, ...], shape: Shape) -> None:
    if not fits:
        raise InexactError(f"a {layer} of {weight} does not fit activations of {shape}; give layers that fit")
