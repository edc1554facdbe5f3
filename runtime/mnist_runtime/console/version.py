"""Versions of the package, onnxruntime and the bundled models, found without importing onnxruntime."""

import hashlib
from importlib.metadata import PackageNotFoundError, version

from mnist_runtime import __version__
from mnist_runtime.bundled import BUNDLED

_ENGINES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "ort-nightly")
"""Distributions that contain the module onnxruntime."""


def describe(command: str) -> str:
    """Return one line each for the command's package, onnxruntime, and the SHA-256 of each bundled file."""
    files = [file for files in BUNDLED.values() for file in files]
    digests = [f"{file.name} sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return "\n".join([f"{command}, version {__version__}", _engine(), *digests])


def _engine() -> str:
    for name in _ENGINES:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "onnxruntime is not installed"
