"""Trained models that come with the package, by name."""

from pathlib import Path

_HERE = Path(__file__).parent

BUNDLED = {
    "cnn": (_HERE / "mnist-cnn.exact.onnx",),
    "linear": (_HERE / "mnist-linear.onnx", _HERE / "mnist-linear.uint8.onnx"),
}
"""Files of each bundled model: the exact convolutional network, and the lab's linear model for float32 and uint8."""

DEFAULT = "cnn"
"""Name of the bundled model that is used where no model is named."""
