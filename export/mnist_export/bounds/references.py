"""References: logits in float64, each with a derived tolerance."""

import numpy as np
from numpy.typing import NDArray

from mnist_export.bounds.bounded import LAMBDA
from mnist_export.bounds.walk import Walk
from mnist_runtime.digits import Intensities
from mnist_runtime.model.comparison import TEN, UNIT_ROUNDOFF, Logits, Reference


def analytic_reference(digits: Intensities, walked: Walk, logits: Logits) -> Reference:
    """Return the reference of a network whose graph was walked.

    Args:
        digits: uint8 `[N, 784]`.
        walked: Walk of the graph over `digits`.
        logits: float64 `[N, 10]` or `[N, 11]`, of the module if it runs in float64, else of the walk.
    """
    agreeing = logits[:, :TEN].argmax(axis=1) == walked.logits[:, :TEN].argmax(axis=1)
    certified = _certify(walked.logits[:, :TEN], walked.worst_case[:, :TEN])
    return Reference(digits, logits, walked.probable, certified & agreeing)


def derived_reference(digits: Intensities, logits: Logits, logits32: NDArray[np.float32]) -> Reference:
    """Return the reference of a module without an analytic bound, from its runs in float64 and in float32.

    Each logit may differ by 8 times (the lambda of Higham and Mary) the largest difference between the two runs over
    `digits`, or by 8 u times the largest logit if that is more, because another machine rounds the same sums in
    another order. No label is certified, because an observation is no proof.

    Args:
        digits: uint8 `[N, 784]`, N > 0; more digits give a better estimate.
        logits: float64 `[N, 10]` or `[N, 11]`.
        logits32: float32, as `logits`, of the same module in float32.
    """
    seen = max(np.abs(logits32 - logits).max(), UNIT_ROUNDOFF * np.abs(logits).max())
    return Reference(digits, logits, np.full_like(logits, LAMBDA * seen), np.zeros(len(digits), dtype=np.bool_))


def _certify(logits: Logits, worst_case: Logits) -> NDArray[np.bool_]:
    """Mark the digits whose largest logit minus its bound is above every other logit plus its bound."""
    rows, best = np.arange(len(logits)), logits.argmax(axis=1)
    rivals = logits + worst_case
    rivals[rows, best] = -np.inf
    certain: NDArray[np.bool_] = (logits - worst_case)[rows, best] > rivals.max(axis=1)
    return certain
