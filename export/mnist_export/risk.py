"""Risk: the share of wrong answers above a confidence, and the thresholds that keep to a stated risk."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.model.comparison import TEN, Logits, softmax
from mnist_runtime.verdicts import Thresholds

RISKS = (0.001, 0.01)
"""Stated risks: shares of wrong labels among the answers."""
LOST = 0.001
"""Share of the digits that may be called no digit."""


@dataclass(frozen=True)
class Confidences:
    """Labels of a network for N digits, and its confidence in each."""

    labels: NDArray[np.int64]
    """Most probable digits, int64 `[N]`."""
    confidence: NDArray[np.float64]
    """Probability of the label times the probability that the picture shows a digit, float64 `[N]`."""
    margin: NDArray[np.float64]
    """Logarithm of the odds of no digit against the label, float64 `[N]`; -inf from a network of ten logits."""

    @classmethod
    def of(cls, logits: Logits) -> "Confidences":
        """Read logits, float64 `[N, 10]` or `[N, 11]`."""
        labels = logits[:, :TEN].argmax(axis=1)
        rows = np.arange(len(logits))
        margin = logits[:, TEN] - logits[rows, labels] if logits.shape[1] > TEN else np.full(len(logits), -np.inf)
        # The softmax over all classes is the label's probability among the ten, times that of any digit.
        return cls(labels, softmax(logits)[rows, labels], margin)

    def are_none(self, odds: float) -> NDArray[np.bool_]:
        """Return True, `[N]`, where the odds of no digit against the label are above `odds`."""
        return self.margin > math.log(odds)


def choose_thresholds(logits: Logits, truth: NDArray[Any], unit: float = 0.0) -> Thresholds:
    """Choose the thresholds that keep to the stated risks for digits whose labels are known.

    Each threshold lies midway between the last digit on one side and the first on the other, so that rounding in
    float32 changes no verdict. A risk that no threshold keeps is left out.

    Args:
        logits: Logits of N digits that the network was not trained on, float64 `[N, 10]` or `[N, 11]`.
        truth: Labels of these digits, `[N]`.
        unit: Unit of an exact network's logits, 2 to the power of its exponent; the logarithm of the odds then lies
            midway between two multiples of the unit, so that integers give the same verdicts.
    """
    answers = Confidences.of(logits)
    odds = 1.0
    if logits.shape[1] > TEN:
        margins = np.sort(answers.margin)[::-1]
        lost = int(LOST * len(margins))
        margin = float(margins[: lost + 1][-2:].mean()) if lost else float(margins[0]) + 1
        odds = math.exp((math.floor(margin / unit) + 0.5) * unit if unit else margin)
    is_digit = ~answers.are_none(odds)
    confidence, wrong = curve(answers.confidence[is_digit], (answers.labels != truth)[is_digit])
    return Thresholds({risk: least for risk in RISKS if (least := _least(confidence, wrong, risk)) is not None}, odds)


def curve(confidence: NDArray[np.float64], wrong: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sort confidences `[N]` in descending order; return them with the number of wrong answers up to each."""
    order = np.argsort(-confidence, kind="stable")
    return confidence[order], np.cumsum(wrong[order])


def _least(confidence: NDArray[np.float64], wrong: NDArray[np.int64], risk: float) -> float | None:
    """Return the least confidence at which at most a share of `risk` of the answers is wrong; None if there is none."""
    count = np.arange(1, len(confidence) + 1)
    separable = np.append(confidence[:-1] > confidence[1:], True)  # equal confidences are answered together
    kept = np.flatnonzero((wrong <= risk * count) & separable)
    if not len(kept):
        return None
    last = kept[-1]
    return 0.0 if last == len(confidence) - 1 else float(confidence[last : last + 2].mean())
