"""A tensor of exact values with a bound on the error of each value computed in float32.

Values are float64. Bounds are float32, which is enough for them and four times as fast in a convolution: every rule
that computes a bound rounds it up by more than float32 can have rounded it down.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist_runtime.model.comparison import SMALLEST_NORMAL, UNIT_ROUNDOFF

LAMBDA = 8.0
"""Lambda of Higham and Mary (2019)."""
_UP = 1 + 2.0**-16
"""Room for 256 roundings of a bound in float32, and for those of the values in float64, which are 2**-29 as large."""
_TOWARDS_ZERO = 1 - 2.0**-22
"""Factor that makes a rounded float32 number no larger, in absolute value, than the number that was rounded."""


@dataclass(frozen=True)
class Bounded:
    """Values, and how far from them an engine's float32 values may be."""

    value: Tensor
    """Exact values, float64."""
    error: Tensor
    """Bounds on |computed - value|, float32 `[2, *value.shape]`: the probable bound, then the worst case."""

    @classmethod
    def exact(cls, value: Tensor) -> "Bounded":
        """Return a tensor that float32 holds exactly."""
        return cls(value.double(), torch.zeros(2, *value.shape))

    def each(self, move: Callable[[Tensor], Tensor]) -> "Bounded":
        """Apply an operator that only moves or picks elements."""
        return Bounded(move(self.value), torch.stack([move(self.error[0]), move(self.error[1])]))

    @property
    def magnitude(self) -> Tensor:
        """Absolute values, float32."""
        return self.value.abs().float()

    @property
    def nonzero(self) -> Tensor:
        """Marks of the elements that are not surely zero, bool."""
        return (self.value != 0) | (self.error[1] != 0)

    def rounded(self, roundings: float = 1.0, further: Tensor | float = 0.0) -> "Bounded":
        """Return the value after an engine has rounded it, and terms of `further` magnitude, `roundings` times."""
        u = roundings * UNIT_ROUNDOFF
        error = self.error * (_UP * (1 + u)) + (_UP * u * (self.magnitude + further) + SMALLEST_NORMAL)
        return Bounded(self.value, error)


def gamma(n: Tensor) -> Tensor:
    """Return the relative error of a sum of `n` rounded terms, `[2, *n.shape]`: probable, then in the worst case."""
    n = n.double()
    nu = n * UNIT_ROUNDOFF
    return torch.stack([torch.minimum(LAMBDA * n.sqrt(), n) * UNIT_ROUNDOFF, nu / (1 - nu)])


def summed(value: Tensor, error: Tensor, magnitude: Tensor, n: Tensor, terms: int) -> Bounded:
    """Return a sum of products.

    Args:
        value: Exact sums, float64.
        error: Error of the exact sum of the computed terms, float32 `[2, *value.shape]` or a scalar.
        magnitude: Exact sums of the terms' absolute values, with the bias, float32.
        n: Terms that are not surely zero, and further roundings; broadcasts to `value`.
        terms: Terms that were added in float32 to make `error` and `magnitude`, for rounding up.
    """
    n = n.reshape(*[1] * (value.ndim - n.ndim), *n.shape)
    up = _UP + 2 * terms * UNIT_ROUNDOFF
    relative = (up * gamma(n)).float()
    return Bounded(value, error * up + relative * (magnitude + error) + (n * SMALLEST_NORMAL).float())


def clipped(x: Bounded, low: Tensor | float, high: Tensor | float) -> Bounded:
    """Clip to constants; what is surely outside them has no error any more."""
    value = x.value.clamp(low, high)  # type: ignore[arg-type]  # both numbers or both tensors
    outside = -(x.value - value).abs().float() * _TOWARDS_ZERO
    return Bounded(value, (x.error + outside).clamp(min=0.0) * _UP)


def curved(x: Bounded, function: Callable[[Tensor], Tensor], slope: float, absolute: float) -> Bounded:
    """Apply a function of largest slope `slope` that engines compute with an error of at most `absolute`."""
    return Bounded(function(x.value), x.error * (slope * _UP) + absolute)
