"""Choice of the model, and of the risk of its answers, on the command line."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnist_runtime.bundled import BUNDLED, DEFAULT
from mnist_runtime.console.command import note
from mnist_runtime.console.finite_float import FiniteFloat
from mnist_runtime.errors import MnistRuntimeError

if TYPE_CHECKING:
    from mnist_runtime.classifier import Classifier

_LOCAL = Path("artifacts/mnist.onnx")
_LOW = 0.8  # validation accuracy; the lab's linear model reaches 0.92

model_option = click.option(
    "--model",
    type=click.Path(readable=False),  # a str, because Path would turn "./linear" into the name of a bundled model
    metavar="FILE|FOLDER|NAME",
    help=f"Model: a .onnx file, a folder written by mnist-export, or a bundled model: {', '.join(BUNDLED)}.",
)
max_error_option = click.option(
    "--max-error",
    type=FiniteFloat(min=0, max=1, min_open=True),
    metavar="SHARE",
    help='Largest share of wrong labels among those called "digit", such as 0.01; 1 calls no label unsure.  '
    "[default: the least that the model states]",
)


def choose_model(named: str | None) -> tuple[Path | str, str | None]:
    """Return the model to use, a path or the name of a bundled model, and a sentence about a choice not named.

    Args:
        named: Model that the command line names, if any: a bundled model, or else a path.
    """
    if named:
        return _read(named), None
    if chosen := os.environ.get("MNIST_MODEL"):
        return _read(chosen), f"Using {chosen} ($MNIST_MODEL)."
    if os.access(_LOCAL, os.F_OK):
        return _LOCAL, f"Using {_LOCAL} (found here)."
    return DEFAULT, f"Using the bundled model {DEFAULT} (no {_LOCAL} here)."


def open_classifier(named: str | None, **settings: Any) -> "Classifier":
    """Open the model that `choose_model` chooses; note a choice and the model's accuracy on stderr.

    Args:
        named: Model that the command line names, if any: a bundled model, or else a path.
        settings: Further arguments of `Classifier`.

    Raises:
        MnistRuntimeError: the model cannot be used.
    """
    from mnist_runtime.classifier import Classifier

    model, choice = choose_model(named)
    try:
        classifier = Classifier(model, **settings)
    except MnistRuntimeError:
        if choice:
            note(choice)
        raise
    if choice:
        share = _accuracy(classifier)
        note(with_accuracy(choice, classifier), warning=share is not None and share < _LOW)
    return classifier


def with_accuracy(choice: str, classifier: "Classifier") -> str:
    """Add the validation accuracy in the model's metadata to the sentence of its choice.

    It is the only sign that artifacts/mnist.onnx, used by default, was exported untrained.
    """
    share = _accuracy(classifier)
    if share is None:
        return choice
    return f"{choice.removesuffix('.')}: it read {share:.2%} of the validation digits right."


def _accuracy(classifier: "Classifier") -> float | None:
    """Return the validation accuracy in the model's metadata; None if mnist-train did not train it."""
    try:
        return float(classifier.artifact.training["metrics"]["valid_accuracy"])
    except (KeyError, TypeError, ValueError):
        return None


def _read(name: str) -> Path | str:
    return name if name in BUNDLED else Path(name)
