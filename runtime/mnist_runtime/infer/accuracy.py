"""Accuracy of the answers: its 95 % interval, the share answered, and the confusion matrix."""

import math

import numpy as np
from numpy.typing import NDArray

from mnist_runtime.digits import CLASSES
from mnist_runtime.errors import DigitError

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: 95 % of it lies within this many deviations of its mean."""


class Confusion:
    """Counts of digits by true and predicted label, filled while answers come."""

    def __init__(self, truth: NDArray[np.int64]) -> None:
        """Take the true labels, int64 `[N]`, in the order in which the answers come."""
        self.counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        """int64 `[10, 10]`: row, true label; column, predicted."""
        self.answered: tuple[int, int] | None = None
        """Number of digits with the verdict "digit", and number of right labels among them; None without verdicts."""
        self._truth = truth
        self._seen = 0

    def add(self, predicted: NDArray[np.int64], answered: NDArray[np.bool_] | None = None) -> None:
        """Count the predicted labels of the next digits, `[n]`; `answered`, `[n]`, is True for the verdict "digit".

        Raises:
            DigitError: there are more digits than labels.
        """
        truth = self._truth[self._seen : self._seen + len(predicted)]
        if len(truth) < len(predicted):
            raise DigitError(
                f"there are more digits than the {len(self._truth):,} labels; give exactly one label per digit"
            )
        np.add.at(self.counts, (truth, predicted), 1)
        if answered is not None:
            count, right = self.answered or (0, 0)
            self.answered = count + int(answered.sum()), right + int((answered & (truth == predicted)).sum())
        self._seen += len(predicted)

    def check_complete(self) -> None:
        """Raise if labels are left over.

        Raises:
            DigitError: there are fewer digits than labels.
        """
        if self._seen < len(self._truth):
            raise DigitError(
                f"there are {self._seen:,} digits and {len(self._truth):,} labels; give exactly one label per digit"
            )

    def report(self) -> str:
        """Format the accuracy, the share answered, and the confusion matrix with each class's recall."""
        total, right = int(self.counts.sum()), int(self.counts.trace())
        if not total:
            return "No digits, no accuracy."
        low, high = wilson(right, total)
        head = [f"accuracy  {right / total:.2%}  ({right:,} of {total:,}; 95 % interval {low:.2%} to {high:.2%})"]
        if self.answered:
            count, right = self.answered
            share = f"; right among these: {right / count:.2%} ({right:,})" if count else ""
            head.append(f"answered  {count / total:.2%}  ({count:,} of {total:,}{share})")
        width = max(5, len(f"{self.counts.max():,}") + 1)
        lines = ["true \\ predicted".ljust(16) + "".join(f"{label:>{width}}" for label in CLASSES) + "   recall"]
        for label, row in enumerate(self.counts.tolist()):
            recall = f"{row[label] / sum(row):9.1%}" if sum(row) else f"{'-':>9}"
            lines.append(f"{label:>16}" + "".join(f"{count or '.':>{width}}" for count in row) + recall)
        return "\n".join([*head, "", *lines])


def wilson(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927, JASA 22:209-212), valid for small counts and near 1.

    >>> [round(bound, 4) for bound in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    share, spread = right / total, Z_95**2 / total
    centre = share + spread / 2
    margin = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (centre - margin) / (1 + spread)), min(1.0, (centre + margin) / (1 + spread))
