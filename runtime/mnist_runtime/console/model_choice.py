"""Choice of the model, and of the risk of its answers, on the command line."""

import os
from collections.abc import Callable
from pathlib import Path

import click

from mnist_runtime.bundled import BUNDLED, DEFAULT

_LOCAL = Path("artifacts/mnist.onnx")

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER|NAME",
    help=f"Model: a .onnx file, a folder written by mnist-export, or a bundled model: {', '.join(BUNDLED)}.",
)
max_error_option = click.option(
    "--max-error",
    type=click.FloatRange(min=0, max=1, min_open=True),
    metavar="SHARE",
    help='Largest share of wrong labels among those called "digit", such as 0.01; 1 calls no label unsure.  '
    "[default: the least that the model states]",
)


def choose_model(named: Path | None, say: Callable[[str], object]) -> Path | str:
    """Return the model to use: a path, or the name of a bundled model.

    Args:
        named: Model that the command line names: a bundled model, or else a path.
        say: Called with the choice, in a sentence, if the command line names none.
    """
    if named:
        return _read(str(named))
    if chosen := os.environ.get("MNIST_MODEL"):
        say(f"Using {chosen} ($MNIST_MODEL).")
        return _read(chosen)
    if _LOCAL.exists():
        say(f"Using {_LOCAL} (found here).")
        return _LOCAL
    say(f"Using the bundled model {DEFAULT} (no {_LOCAL} here).")
    return DEFAULT


def _read(name: str) -> Path | str:
    return name if name in BUNDLED else Path(name)
