"""The gate: an artifact, run as it will be deployed, is compared with what it must compute."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnist_export.golden import VALIDATION, Expected, Proof
from mnist_export.risk import Confidences
from mnist_runtime.classifier import Outputs
from mnist_runtime.digits import Intensities, as_pixels
from mnist_runtime.errors import first_line
from mnist_runtime.model.comparison import TEN, Comparison, Reference, compare, incomparable
from mnist_runtime.verdicts import VERDICTS, Rule, Thresholds
from mnist_train.errors import MnistEdgeError

_BATCH = 250
"""Digits that an engine in this process runs together, because its memory grows with them."""
_BATCHES = (1, 2, 64)
"""Batch sizes that are run before the whole set, because they show a baked-in batch dimension at once.

A batch of 0 is not run: the runtime answers it without an engine, because some engines abort on it."""

Compute = Callable[[Intensities], Sequence[NDArray[np.float32]]]
"""Function from raw digits, uint8 `[N, 784]`, to all logits, or to the outputs of an ONNX artifact, float32."""


@dataclass(frozen=True)
class Verdict:
    """The result of comparing one artifact with what it must compute."""

    comparisons: tuple[Comparison, ...]
    """One comparison per set of digits; the first that fails is the last."""
    proof: Proof
    """Origin of the reference and of its tolerances."""
    module_accuracy: float
    """Accuracy of the module in float32 on the validation digits."""
    accuracy: float
    """Accuracy of the artifact on them; NaN, like the next two shares, if the artifact failed earlier."""
    agreement: float
    """Share of validation digits to which the artifact gives the module's label."""
    bit_equal: float
    """Share of validation logits that equal the module's float32 logits bit for bit."""
    shares: NDArray[np.float64]
    """Error of each validation logit as a share of its tolerance, `[N, 10]`."""

    @property
    def failure(self) -> Comparison | None:
        """Comparison that the artifact did not pass, or None."""
        return next((comparison for comparison in self.comparisons if not comparison.passed), None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict without the shares; a number that was not measured is None."""
        numbers = {name: getattr(self, name) for name in ("module_accuracy", "accuracy", "agreement", "bit_equal")}
        return {
            **asdict(self.proof),
            **{name: None if math.isnan(number) else number for name, number in numbers.items()},
            "parity": [comparison.to_dict() for comparison in self.comparisons],
        }


class ParityError(MnistEdgeError, ArithmeticError):
    """An artifact does not compute what was trained; nothing was published."""

    def __init__(self, sentence: str, format_: str, verdict: Verdict, expected: Expected) -> None:
        super().__init__(sentence)
        self.format = format_
        """Name of the refused format: "onnx", "torchscript"..."""
        self.verdict = verdict
        """Verdict of the gate."""
        self.expected = expected
        """References that the artifact was held against."""


def compute_of(module: Callable[[torch.Tensor], torch.Tensor]) -> Compute:
    """Return the function that runs a module or program of torch, from float32 pixels to logits."""

    def compute(digits: Intensities) -> list[NDArray[np.float32]]:
        with torch.no_grad():
            return [module(torch.from_numpy(as_pixels(digits))).numpy()]

    return in_batches(compute)


def in_batches(compute: Compute) -> Compute:
    """Return a function that calls `compute` with some hundred digits at a time."""

    def whole(digits: Intensities) -> list[NDArray[np.float32]]:
        batches = [compute(digits[start : start + _BATCH]) for start in range(0, len(digits), _BATCH)]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    return whole


def judge(compute: Compute, expected: Expected) -> Verdict:
    """Run every set of digits, in several batch sizes, up to the first failure."""
    comparisons: list[Comparison] = []
    module_logits = expected.logits[:, :TEN]
    logits = np.full_like(module_logits, np.nan)
    for name, wanted in expected.sets.items():
        allowed = replace(wanted, tolerance=np.minimum(wanted.tolerance, expected.margin))
        comparison, computed = _compare(compute, name, allowed, expected)
        comparisons.append(comparison)
        if not comparison.passed:
            break
        if name == VALIDATION:
            logits = computed[:, :TEN]
    measured = bool(np.isfinite(logits).all())

    def share(equal: NDArray[np.bool_]) -> float:
        return float(equal.mean()) if measured else math.nan

    labels, module_labels = logits.argmax(axis=1), module_logits.argmax(axis=1)
    return Verdict(
        tuple(comparisons),
        expected.proof,
        float((module_labels == expected.labels).mean()),
        share(labels == expected.labels),
        share(labels == module_labels),
        share(logits == module_logits),
        _shares(logits, expected.sets[VALIDATION]),
    )


def _shares(logits: NDArray[np.float32], wanted: Reference) -> NDArray[np.float64]:
    """Return each logit's error as a share of its tolerance; where the tolerance is 0, the share is 0 or infinite."""
    error, tolerance = np.abs(logits - wanted.logits[:, :TEN]), wanted.tolerance[:, :TEN]
    exact = np.where(error == 0, 0.0, np.inf)
    return np.asarray(np.divide(error, tolerance, out=exact, where=tolerance > 0))


def _compare(
    compute: Compute, name: str, wanted: Reference, expected: Expected
) -> tuple[Comparison, NDArray[np.float32]]:
    """Compare the whole set; small batches come first, and are returned only if they fail."""
    for size in (*_BATCHES, len(wanted)):
        part = wanted[:size]
        label = name if size == len(wanted) else f"{name}, batch of {size}"
        try:
            outputs = compute(part.digits)
        except Exception as error:  # noqa: BLE001  # each engine raises its own, and none may pass
            failed = incomparable(label, size, f"it cannot be run ({first_line(error)})")
            return failed, np.empty((0, TEN), np.float32)
        comparison = compare(label, part, *outputs)
        if comparison.passed and expected.proof.bound == "exact" and len(outputs) > 1:
            comparison = replace(comparison, failures=tuple(_lost_verdicts(part, outputs, expected.thresholds)))
        if not comparison.passed:
            break
    return comparison, outputs[0]


def _lost_verdicts(wanted: Reference, outputs: Sequence[NDArray[np.float32]], thresholds: Thresholds) -> Iterator[str]:
    """Compare the verdicts "no digit" of probabilities with those of integers, which C and JavaScript give."""
    logits, probabilities, no_digit = (*outputs, np.zeros(len(wanted), np.float32))[:3]
    computed = Outputs(logits, probabilities, no_digit, Rule(0.0, thresholds.odds))
    is_none = Confidences.of(wanted.logits).are_none(thresholds.odds)
    lost = np.flatnonzero((computed.verdicts == VERDICTS.index("no digit")) != is_none)
    if len(lost):
        yield f"{len(lost)} verdicts differ from those of integers, the first at digit {lost[0]}"
