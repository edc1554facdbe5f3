"""Choice of the model when the command line names none."""

import os
from collections.abc import Callable
from pathlib import Path

_LOCAL = Path("artifacts/mnist.onnx")


def choose_model(named: Path | None, say: Callable[[str], object]) -> Path | None:
    """Return the model to use, None for the bundled one; `say` is called with the choice unless it was `named`."""
    if named:
        return named
    if chosen := os.environ.get("MNIST_MODEL"):
        say(f"Using {chosen} ($MNIST_MODEL).")
        return Path(chosen)
    if _LOCAL.exists():
        say(f"Using {_LOCAL} (found here).")
        return _LOCAL
    say(f"Using the bundled model (no {_LOCAL} here).")
    return None
