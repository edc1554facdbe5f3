"""Reference logits of a module and the tolerance of each, derived and never picked.

With `u = 2**-24`, the unit roundoff of float32, and `n` = lit pixels + 1 (a product with a dark pixel is exactly 0, and
adding 0 rounds nothing), a logit of a linear model computed in float32 differs from `x @ W + b` by at most

- `gamma_n * (|x| @ |W| + |b|)`, `gamma_n = n*u / (1 - n*u)`, in the worst case, in any order of summation: Higham,
  Accuracy and Stability of Numerical Algorithms (2002), section 3.1;
- `min(8 * sqrt(n), n) * u * (|x| @ |W| + |b|)` with high probability: Higham and Mary, A New Approach to
  Probabilistic Rounding Error Analysis (2019), with their lambda = 8. This one passes or fails an artifact.

To both come `n` times the smallest normal float32, for products that underflow.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import LEVELS, Intensities
from mnist_runtime.model.comparison import SMALLEST_NORMAL, UNIT_ROUNDOFF, Logits, Reference

LAMBDA = 8.0


def linear_reference(
    digits: Intensities, weight: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]], *, scalings: int = 0
) -> Reference:
    """The reference of a linear model, with the analytic bounds of this module's docstring.

    Args:
        digits: uint8 `[N, 784]`.
        weight: `[10, 784]`, as `nn.Linear` keeps it, float32 unless `scalings` says what else.
        bias: `[10]`.
        scalings: Roundings of each term besides those of its product and the sum, as by the scales of 8-bit weights.
    """
    x = digits / np.float64(LEVELS)
    w, b = weight.astype(np.float64).T, bias.astype(np.float64)
    logits = x @ w + b
    magnitude = x @ np.abs(w) + np.abs(b)
    n = np.count_nonzero(digits, axis=1)[:, None] + 1.0 + scalings
    underflow = n * SMALLEST_NORMAL
    worst_case = n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF) * magnitude + underflow
    probable = np.minimum(LAMBDA * np.sqrt(n), n) * UNIT_ROUNDOFF * magnitude + underflow
    return Reference(digits, logits, probable, _certify(logits, worst_case))


def derived_reference(digits: Intensities, logits: Logits, logits32: NDArray[np.float32]) -> Reference:
    """The reference of a module without an analytic bound, from running it in float64 and in float32.

    Every logit may err by 8 times (the lambda above) the largest difference between the two seen over `digits`, which
    counts as `u` times the largest logit if it was less: on another machine the same sums round in another order. No
    label is certified: an observation is no proof.

    Args:
        digits: uint8 `[N, 784]`, N > 0; the more there are, the better the estimate.
        logits: float64 `[N, 10]`.
        logits32: float32 `[N, 10]`, of the same module in float32.
    """
    seen = max(np.abs(logits32 - logits).max(), UNIT_ROUNDOFF * np.abs(logits).max())
    return Reference(digits, logits, np.full_like(logits, LAMBDA * seen), np.zeros(len(digits), dtype=np.bool_))


def quantized_reference(digits: Intensities, logits: NDArray[np.float32], trained: Logits) -> Reference:
    """The reference of a quantised graph, which rounds its activations to 8 bits.

    Engines that add in another order may round an activation to the next step. Every logit may therefore differ by the
    most that quantisation itself was seen to move one, over `digits`. No label is certified.

    Args:
        digits: uint8 `[N, 784]`, N > 0.
        logits: float32 `[N, 10]`, of the quantised graph, run as it is written.
        trained: float64 `[N, 10]`, of the module it was made from.
    """
    seen = np.abs(logits - trained).max()
    none = np.zeros(len(digits), dtype=np.bool_)
    return Reference(digits, logits.astype(np.float64), np.full_like(trained, seen), none)


def _certify(logits: Logits, worst_case: Logits) -> NDArray[np.bool_]:
    """True where the largest logit, at its least, is above every other one at its most."""
    rows, best = np.arange(len(logits)), logits.argmax(axis=1)
    rivals = logits + worst_case
    rivals[rows, best] = -np.inf
    certain: NDArray[np.bool_] = (logits - worst_case)[rows, best] > rivals.max(axis=1)
    return certain
