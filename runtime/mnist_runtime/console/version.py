"""What is installed and would run: the package, onnxruntime and the model, told without loading any of them."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mnist_runtime import __version__

_ENGINES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "ort-nightly")
"""The distributions that bring the module onnxruntime."""

_MODEL = Path(__file__).parents[1] / "bundled" / "mnist-linear.onnx"


def describe(command: str) -> str:
    """Name the versions, a line each: the command's package, onnxruntime, and the bundled model's SHA-256."""
    model = hashlib.sha256(_MODEL.read_bytes()).hexdigest()
    return f"{command}, version {__version__}\n{_engine()}\nbundled model sha256 {model}"


def _engine() -> str:
    for name in _ENGINES:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "onnxruntime is not installed"
