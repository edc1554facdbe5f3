"""The commands of the runtime: `mnist-infer` and `mnist-parity`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_runtime import __version__
from mnist_runtime.command import FAILURE, Command, complain
from mnist_runtime.errors import DigitError, MnistRuntimeError

# NumPy and onnxruntime are imported where they are used: --help and --version answer without them.
if TYPE_CHECKING:
    from mnist_runtime.artifact import Artifact
    from mnist_runtime.classifier import Classifier
    from mnist_runtime.formats import Answer

_LOCAL_MODEL = Path("artifacts/mnist.onnx")
_CHUNK = 4096  # digits held in memory at a time


@click.command("mnist-infer", cls=Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--model", type=click.Path(path_type=Path), metavar="FILE", help="The .onnx file to use.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "jsonl", "csv"]),
    default="text",
    show_default=True,
    help="How to print the predictions.",
)
@click.version_option(__version__)
def infer(paths: tuple[str, ...], model: Path | None, form: str) -> int:
    """Recognise the digits in .npy files; PATH "-" reads one file from standard input.

    A file holds one digit or many: uint8 0-255 or floats within [0, 1], 28x28 or 784 pixels, white ink on black.

    Without --model: $MNIST_MODEL, else artifacts/mnist.onnx, else the model that comes with the package.

    Exit codes: 0 all answered; 1 the model or some input failed (the other inputs are still answered); 2 wrong
    usage; 130 interrupted.
    """
    from mnist_runtime.formats import WRITERS

    from mnist_runtime.classifier import Classifier

    with Classifier(_choose(model)) as classifier:
        failed: list[str] = []
        WRITERS[form](_answers(paths, classifier, failed), sys.stdout)
    return FAILURE if failed else 0


@click.command("mnist-parity", cls=Command)
@click.argument("model", type=click.Path(path_type=Path), metavar="[MODEL]", required=False)
@click.version_option(__version__)
def parity(model: Path | None) -> int:
    """Prove that this machine computes what was trained: replay the golden digits inside MODEL, without PyTorch.

    Without MODEL: $MNIST_MODEL, else artifacts/mnist.onnx, else the model that comes with the package.

    Exit codes: 0 parity holds; 1 it does not, or the model cannot be used; 2 wrong usage.
    """
    from mnist_runtime.parity import table

    artifact = _load(model)
    comparison = artifact.replay()
    click.echo(f"model   {artifact.name}, {artifact.dtype} pixels\nsha256  {artifact.sha256}, seal intact")
    click.echo(f"engine  {artifact.engine}\n\n{table([comparison])}\n")
    for failure in comparison.failures:
        complain(f"{artifact.name} is not at parity: {failure}; do not deploy it on this machine")
    if comparison.failures:
        return FAILURE
    click.echo("Parity holds: this machine computes what was trained.")
    return 0


def _load(model: Path | None) -> "Artifact":
    from mnist_runtime.artifact import BUNDLED, Artifact

    return Artifact.load(_choose(model) or BUNDLED)


def _choose(model: Path | None) -> Path | None:
    """The model to use, None for the bundled one; says which, unless it was named."""
    if model:
        return model
    if chosen := os.environ.get("MNIST_MODEL"):
        click.echo(f"Using {chosen} ($MNIST_MODEL).", err=True)
        return Path(chosen)
    if _LOCAL_MODEL.exists():
        click.echo(f"Using {_LOCAL_MODEL} (found here).", err=True)
        return _LOCAL_MODEL
    click.echo(f"Using the bundled model (no {_LOCAL_MODEL} here).", err=True)
    return None


def _answers(paths: tuple[str, ...], classifier: "Classifier", failed: list[str]) -> Iterator["Answer"]:
    """Answer every digit of every path; complain of a path that fails, note it in `failed`, and go on."""
    for path in paths:
        try:
            yield from _answers_of(path, classifier)
        except MnistRuntimeError as error:
            complain(f"{path}: {error}" if path not in str(error) else str(error))
            failed.append(path)


def _answers_of(path: str, classifier: "Classifier") -> Iterator["Answer"]:
    from mnist_runtime.digits import as_batch, as_digits
    from mnist_runtime.formats import Answer
    from mnist_runtime.npy import open_npy, read_npy

    if path == "-" and sys.stdin.isatty():
        raise DigitError("standard input is a terminal; pipe a .npy file into it, as in: mnist-infer - < digit.npy")
    digits = as_batch(read_npy(sys.stdin.buffer, "standard input") if path == "-" else open_npy(path))
    for start in range(0, len(digits), _CHUNK):
        chunk = as_digits(digits[start : start + _CHUNK])
        for offset, prediction in enumerate(classifier.predictions(chunk)):
            yield Answer(path, start + offset, chunk[offset], prediction)
