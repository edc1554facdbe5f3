"""A tensor of exact values with a bound on the error of each value computed in float32.

Values are float64. Bounds are float32, which is precise enough and four times as fast in a convolution, because every
rule rounds its bound up by more than float32 can have rounded it down.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist_runtime.model.comparison import SMALLEST_NORMAL, UNIT_ROUNDOFF

LAMBDA = 8.0
"""Lambda of Higham and Mary (2019)."""
_UP = 1 + 2.0**-16
"""Factor that covers 256 roundings of a bound in float32, and those of values in float64, 2**-29 as large."""
_TOWARDS_ZERO = 1 - 2.0**-22
"""Factor that makes a rounded float32 number no larger, in absolute value, than the number that was rounded."""


@dataclass(frozen=True)
class Bounded:
    """Values, and bounds on the errors of an engine's float32 values."""

    value: Tensor
    """Exact values, float64."""
    error: Tensor
    """Bounds on |computed - value|, float32 `[2, *value.shape]`: the probable bound, then the worst case."""

    @classmethod
    def exact(cls, value: Tensor) -> "Bounded":
        """Return a tensor that float32 holds exactly."""
        return cls(value.double(), torch.zeros(2, *value.shape))

    def each(self, function: Callable[[Tensor], Tensor]) -> "Bounded":
        """Apply `function` to the values and to either bound."""
        return Bounded(function(self.value), torch.stack([function(self.error[0]), function(self.error[1])]))

    @property
    def magnitude(self) -> Tensor:
        """Absolute values, float32."""
        return self.value.float().abs_()

    @property
    def nonzero(self) -> Tensor:
        """Marks of the elements that are not surely zero, bool."""
        return (self.value != 0) | (self.error[1] != 0)

    def rounded(self, roundings: float = 1.0, further: Tensor | float = 0.0) -> "Bounded":
        """Return the value after an engine has rounded it, and terms of `further` magnitude, `roundings` times."""
        u = roundings * UNIT_ROUNDOFF
        rounding = (self.magnitude + further).mul_(_UP * u).add_(SMALLEST_NORMAL)
        return Bounded(self.value, self.error.mul(_UP * (1 + u)).add_(rounding))


def gamma(n: Tensor) -> Tensor:
    """Return the relative error of a sum of `n` rounded terms, `[2, *n.shape]`: probable, then in the worst case."""
    n = n.double()
    nu = n * UNIT_ROUNDOFF
    return torch.stack([torch.minimum(LAMBDA * n.sqrt(), n) * UNIT_ROUNDOFF, nu / (1 - nu)])


def underflow(terms: int) -> float:
    """Return a magnitude whose rounding, in `summed`, bounds the error of `terms` products that underflow.

    Each is off by the smallest normal number at most, and n <= min(8 sqrt(n), n) * (1 + sqrt(terms)) for n terms.
    """
    return SMALLEST_NORMAL / UNIT_ROUNDOFF * (1 + math.sqrt(terms))


def summed(value: Tensor, error: Tensor, magnitude: Tensor, n: Tensor, terms: int) -> Bounded:
    """Return a sum of products.

    Args:
        value: Exact sums, float64.
        error: Error of the exact sum of the computed terms, float32 `[2, *value.shape]`; it is overwritten.
        magnitude: Exact sums of the terms' absolute values, with the bias and `underflow(terms)`, float32.
        n: Number of terms that are not surely zero, plus further roundings; broadcasts to `value`.
        terms: Number of terms added in float32 to compute `error` and `magnitude`, for rounding up.
    """
    n = n.reshape(*[1] * (value.ndim - n.ndim), *n.shape)
    up = _UP + 2 * terms * UNIT_ROUNDOFF
    relative = (up * gamma(n)).float()
    return Bounded(value, error.mul_(relative + up).addcmul_(relative, magnitude))


def clipped(x: Bounded, low: Tensor | float, high: Tensor | float) -> Bounded:
    """Clip to constants; an element that is surely outside them has no error."""
    value = x.value.clamp(low, high)  # type: ignore[arg-type]  # both numbers or both tensors
    outside = (x.value - value).float().abs_().mul_(_TOWARDS_ZERO)
    return Bounded(value, x.error.sub(outside).clamp_(min=0.0).mul_(_UP))


def curved(x: Bounded, function: Callable[[Tensor], Tensor], slope: float, absolute: float) -> Bounded:
    """Apply a function of largest slope `slope`, which engines compute with an error of at most `absolute`."""
    return Bounded(function(x.value), x.error * (slope * _UP) + absolute)
