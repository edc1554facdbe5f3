"""The format `onnx-int8`: ONNX with weights and activations of 8 bits, calibrated on real training digits.

onnxruntime's own tools write it, as QuantizeLinear and DequantizeLinear around every linear layer, which onnxruntime
fuses into integer kernels. Weights are quantised a scale for each output, to 7 bits, because on x86 without VNNI a
product of two 8-bit operands saturates (onnxruntime's documentation, "Quantize ONNX models"). The logits stay float32.
MNIST's pixels lose nothing: their range, 0 to 255/256, makes the step exactly 1/256.
"""

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mnist_export.bounds.references import linear_reference, quantized_reference
from mnist_export.golden import Expected, Proof, split_sets
from mnist_export.onnx import Onnx
from mnist_runtime.digits import PIXELS, Intensities, Pixels, as_intensities, as_pixels
from mnist_train.data.bundled import load_split

if TYPE_CHECKING:
    from mnist_export.bundle import Bundle

CALIBRATION_DIGITS = 1000
"""Of the training set, from its start."""

_SCALINGS = 3
"""An engine may round the product of the two scales, its product with the sum of integers, and that of the bias."""
_LINEAR = ["Gemm", "MatMul", "Conv"]


class OnnxInt8(Onnx):
    """The graph with 8-bit weights and activations."""

    def graph(self, bundle: "Bundle") -> ModelProto:
        """Return the quantised graph."""
        return bundle.once(_quantized_graph)

    def expect(self, bundle: "Bundle") -> Expected:
        """Return the logits of the weights that the integers stand for."""
        return expect_quantized(self.graph(bundle), bundle.expected)


def _quantized_graph(bundle: "Bundle") -> ModelProto:
    digits = as_intensities(load_split("train").images[:CALIBRATION_DIGITS].reshape(-1, PIXELS))
    return quantize(bundle.graph, digits)


class _Digits(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime comes without types
    """Hands one batch of pixels to onnxruntime's calibrator."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches = iter([{"pixels": pixels}])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._batches, None)


def quantize(graph: ModelProto, digits: Intensities) -> ModelProto:
    """Quantise the linear layers of a float32 graph, with the ranges that `digits`, uint8 `[N, 784]`, produce."""
    source = ModelProto()
    source.CopyFrom(graph)  # onnxruntime writes into what it is given
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "quantized.onnx"
        quantize_static(
            source,
            file,
            _Digits(as_pixels(digits)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_LINEAR,
            per_channel=True,
            reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": _LINEAR},
        )
        return onnx.load(file)


def expect_quantized(model: ModelProto, trained: Expected) -> Expected:
    """What the quantised graph must compute, held against `trained`, what its module computes.

    Of a linear model, whose pixels lose nothing, the bounds are analytic as ever, for the weights that the integers
    stand for. With hidden layers, the graph's own logits as it is written, see `mnist_runtime.model.comparison`.
    """
    digits = {name: reference.digits for name, reference in trained.sets.items()}
    together = np.concatenate(list(digits.values()))
    if _is_linear(model):
        gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
        weight, bias = (_dequantized(model, name) for name in gemm.input[1:])
        reference = linear_reference(together, weight, bias, scalings=_SCALINGS)
        return replace(trained, sets=split_sets(reference, digits), proof=Proof("analytic", "graph"), margin=math.inf)
    logits = np.concatenate([reference.logits for reference in trained.sets.values()])
    whole = quantized_reference(together, _run_as_written(model, together), logits)
    return replace(trained, sets=split_sets(whole, digits), proof=Proof("quantization", "graph"), margin=math.inf)


def _is_linear(model: ModelProto) -> bool:
    """Return True if the graph is one linear layer and a softmax."""
    operators = [node.op_type for node in model.graph.node if "Linear" not in node.op_type]  # (De)QuantizeLinear
    return operators == ["Gemm", "Softmax"]


def _run_as_written(model: ModelProto, digits: Intensities) -> NDArray[np.float32]:
    """The logits without onnxruntime's optimisations: every rounding to 8 bits where the graph has it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"pixels": as_pixels(digits)})[0]
    return logits


def _dequantized(model: ModelProto, name: str) -> NDArray[np.float64]:
    """What the integers behind a tensor, an input of the Gemm, stand for: each times the scale of its row, exactly."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if name in node.output)
    integers, scale = values[node.input[0]], values[node.input[1]]
    return np.asarray(integers * scale.astype(np.float64).reshape(-1, *[1] * (integers.ndim - 1)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user the advice to preprocess, which is given whatever was done."""
    logger = logging.getLogger()
    advice = logging.Filter()
    advice.filter = lambda record: "pre-processing" not in record.getMessage()  # type: ignore[method-assign]
    logger.addFilter(advice)
    try:
        yield
    finally:
        logger.removeFilter(advice)
