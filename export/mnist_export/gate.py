"""The gate: does an artifact, run as it will be deployed, compute what its module computes?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnist_export.golden import VALIDATION, Expected
from mnist_runtime.digits import Intensities, as_pixels
from mnist_runtime.model.comparison import Comparison, Reference, compare, incomparable
from mnist_train.errors import MnistEdgeError

_BATCHES = (0, 1, 2, 64)
"""Sizes that are run besides the whole: a baked-in batch dimension shows at once."""

Compute = Callable[[Intensities], tuple[NDArray[np.float32], NDArray[np.float32] | None]]
"""Raw digits uint8 `[N, 784]` to logits and, where the artifact computes them, probabilities, float32 `[N, 10]`."""


@dataclass(frozen=True)
class Verdict:
    """What came of holding one artifact against its module."""

    comparisons: tuple[Comparison, ...]
    """One a set of digits; the first that fails is the last."""
    bound: str
    """Where the tolerances come from: "exact", "analytic", "derived" or "quantization"."""
    module_accuracy: float
    """Of the module in float32 on the validation digits."""
    accuracy: float
    """Of the artifact on the same; NaN, as the two shares below, if it failed before them."""
    agreement: float
    """The share of validation digits with the module's own label."""
    bit_equal: float
    """The share of validation logits equal, bit for bit, to the module's own in float32."""
    shares: NDArray[np.float64]
    """Each validation logit's error as a share of its tolerance, `[N, 10]`."""

    @property
    def failure(self) -> Comparison | None:
        """The comparison that the artifact did not pass."""
        return next((comparison for comparison in self.comparisons if not comparison.passed), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: without the shares, and null for what was not measured."""
        numbers = {name: getattr(self, name) for name in ("module_accuracy", "accuracy", "agreement", "bit_equal")}
        return {
            "bound": self.bound,
            **{name: None if math.isnan(number) else number for name, number in numbers.items()},
            "parity": [comparison.to_dict() for comparison in self.comparisons],
        }


class ParityError(MnistEdgeError, ArithmeticError):
    """An artifact does not compute what was trained; nothing was published."""

    def __init__(self, sentence: str, form: str, verdict: Verdict, expected: Expected) -> None:
        super().__init__(sentence)
        self.format = form
        """Name of the format that was refused: "onnx", "torchscript"..."""
        self.verdict = verdict
        """What the gate found."""
        self.expected = expected
        """What it was looking for."""


def compute_of(module: Callable[[torch.Tensor], torch.Tensor]) -> Compute:
    """Return the function that runs a module or program of torch, from float32 pixels to logits."""

    def compute(digits: Intensities) -> tuple[NDArray[np.float32], None]:
        with torch.no_grad():
            return module(torch.from_numpy(as_pixels(digits))).numpy(), None

    return compute


def judge(compute: Compute, expected: Expected) -> Verdict:
    """Run every set of digits, in several batch sizes, up to the first failure."""
    comparisons: list[Comparison] = []
    logits = np.full_like(expected.logits, np.nan)
    for name, wanted in expected.sets.items():
        comparison, computed = _compare(compute, name, wanted)
        comparisons.append(comparison)
        if not comparison.passed:
            break
        if name == VALIDATION:
            logits = computed
    measured = bool(np.isfinite(logits).all())

    def share(equal: NDArray[np.bool_]) -> float:
        return float(equal.mean()) if measured else math.nan

    labels, module_labels = logits.argmax(axis=1), expected.logits.argmax(axis=1)
    return Verdict(
        tuple(comparisons),
        expected.bound,
        float((module_labels == expected.labels).mean()),
        share(labels == expected.labels),
        share(labels == module_labels),
        share(logits == expected.logits),
        _shares(logits, expected.sets[VALIDATION]),
    )


def _shares(logits: NDArray[np.float32], wanted: Reference) -> NDArray[np.float64]:
    """Return each logit's error as a share of its tolerance; without tolerance that is 0 or infinite."""
    error = np.abs(logits - wanted.logits)
    exact = np.where(error == 0, 0.0, np.inf)
    return np.asarray(np.divide(error, wanted.tolerance, out=exact, where=wanted.tolerance > 0))


def _compare(compute: Compute, name: str, wanted: Reference) -> tuple[Comparison, NDArray[np.float32]]:
    """Compare the whole set; before it, small batches, of which only a failure is of interest."""
    for size in (*_BATCHES, len(wanted)):
        part = wanted[:size]
        label = name if size == len(wanted) else f"{name}, batch of {size}"
        try:
            logits, probabilities = compute(part.digits)
        except Exception as error:  # noqa: BLE001  # each engine has its own, and none may pass
            reason = str(error).strip().splitlines()[0]
            return incomparable(label, size, f"it cannot be run ({reason})"), np.empty((0, 10), dtype=np.float32)
        comparison = compare(label, part, logits, probabilities)
        if not comparison.passed:
            break
    return comparison, logits
