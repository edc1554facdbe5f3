"""Recognise handwritten digits without PyTorch.

>>> import numpy as np
>>> from mnist_runtime import Classifier
>>> Classifier().predict(np.zeros((2, 28, 28), dtype=np.uint8)).shape
(2,)

Importing this package loads nothing heavy: NumPy and onnxruntime come with the first name you use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_runtime.classifier import Classifier, Prediction
    from mnist_runtime.errors import (
        ArtifactError,
        ClosedError,
        DigitError,
        ExtraMissingError,
        FileMissingError,
        FileReadError,
        FileWriteError,
        IntegrityError,
        ManifestError,
        MnistRuntimeError,
        OptionError,
    )

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "Classifier",
    "ClosedError",
    "DigitError",
    "ExtraMissingError",
    "FileMissingError",
    "FileReadError",
    "FileWriteError",
    "IntegrityError",
    "ManifestError",
    "MnistRuntimeError",
    "OptionError",
    "Prediction",
    "__version__",
]

_CLASSIFIER = {"Classifier", "Prediction"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "classifier" if name in _CLASSIFIER else "errors"
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
