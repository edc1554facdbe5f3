"""Versions of the package, onnxruntime and the bundled model, found without importing onnxruntime."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mnist_runtime import __version__

_ENGINES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "ort-nightly")
"""Distributions that contain the module onnxruntime."""

_MODEL = Path(__file__).parents[1] / "bundled" / "mnist-linear.onnx"


def describe(command: str) -> str:
    """Return one line each for the command's package, onnxruntime, and the bundled model's SHA-256."""
    model = hashlib.sha256(_MODEL.read_bytes()).hexdigest()
    return f"{command}, version {__version__}\n{_engine()}\nbundled model sha256 {model}"


def _engine() -> str:
    for name in _ENGINES:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "onnxruntime is not installed"
