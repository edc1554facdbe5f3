"""Digits in, labels out: the classifier that other programs embed, with scikit-learn's method names."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnist_runtime.artifact import BUNDLED, Artifact
from mnist_runtime.digits import CLASSES, Intensities, Pixels
from mnist_runtime.errors import DigitError


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one digit."""

    label: int
    """The most probable class, 0-9."""
    probability: float
    """Of that class, within [0, 1]."""
    probabilities: tuple[float, ...]
    """Of the classes 0 to 9; they sum to 1 within float32 rounding."""


class Classifier:
    """A trained digit classifier on onnxruntime.

    `X` is any batch or single digit of the input contract (`mnist_runtime.digits.as_digits`): uint8 0-255 or
    floats within [0, 1], of shape `(784,)`, `(28, 28)`, `(N, 784)`, `(N, 28, 28)` or `(N, 1, 28, 28)`. A single
    digit counts as a batch of one. Every method raises `DigitError` for anything else.

    >>> classifier = Classifier()
    >>> blank = np.zeros((28, 28), dtype=np.uint8)
    >>> classifier.predict_proba(blank).shape
    (1, 10)
    >>> classifier.classify(blank).label in classifier.classes_
    True
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Load the .onnx file at `path`, or the bundled model.

        Raises:
            FileMissingError, FileReadError: it is not there, or cannot be read.
            ArtifactError: it is damaged, not ours, or not loadable here.
        """
        self.artifact = Artifact.load(BUNDLED if path is None else path)
        self.classes_: NDArray[np.int64] = np.array(CLASSES, dtype=np.int64)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """Logits, float32 `[N, 10]`, of the digits `X`."""
        return self.artifact.run(self.artifact.prepare(X), "logits")[0]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Probabilities (softmax of the logits), float32 `[N, 10]`, of the digits `X`."""
        return self.artifact.run(self.artifact.prepare(X), "probabilities")[0]

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Labels, int64 `[N]`, of the digits `X`: the class of the largest logit, the first one of equals."""
        labels: NDArray[np.int64] = self.decision_function(X).argmax(axis=1)
        return labels

    def classify(self, digit: ArrayLike) -> Prediction:
        """Label and probabilities of one digit, `(784,)`, `(28, 28)` or a batch of one."""
        batch = self.artifact.prepare(digit)
        if len(batch) != 1:
            raise DigitError(f"these are {len(batch)} digits, and classify takes one; use predict for many")
        return predictions(self.artifact, batch)[0]


def predictions(artifact: Artifact, batch: Intensities | Pixels) -> list[Prediction]:
    """Label and probabilities of each digit of a prepared batch, `[N, 784]` of the artifact's dtype."""
    logits, probabilities = artifact.run(batch, "logits", "probabilities")
    labels = logits.argmax(axis=1).tolist()  # as predict does: probabilities can tie where logits do not
    rows = probabilities.tolist()
    return [Prediction(label, row[label], tuple(row)) for label, row in zip(labels, rows, strict=True)]
