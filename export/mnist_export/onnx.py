"""ONNX: module in, bytes out, as float32 pixels or as raw uint8 ones."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from mnist_export.errors import ExportError
from mnist_runtime import __version__
from mnist_runtime.artifact import metadata, seal
from mnist_runtime.digits import LEVELS, PIXELS

OPSET = 18
IR_VERSION = 8
"""The newest that onnxruntime 1.15 reads; the exporter's own default, 10, is refused there."""


class _WithProbabilities(nn.Module):
    """The module as an application wants it: softmax belongs to the graph."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.module(pixels)
        return logits, torch.softmax(logits, dim=-1)


def to_graph(module: nn.Module) -> ModelProto:
    """Trace `module`, float32 `[N, 784]` to `[N, 10]`, into a bare ONNX graph: the programme and nothing else.

    Raises:
        ExportError: PyTorch's exporter cannot follow the module.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                _WithProbabilities(module).eval(),
                (torch.zeros(2, PIXELS),),  # not 1: the exporter takes a dimension of 1 for a constant
                dynamo=True,
                external_data=False,
                input_names=["pixels"],
                output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"PyTorch's ONNX exporter cannot follow this module: {reason}") from error
    if program is None:
        raise ExportError("PyTorch's ONNX exporter returned nothing; install the torch of constraints.txt")
    return _bare(program.model_proto)


def to_onnx(graph: ModelProto, properties: Mapping[str, str]) -> bytes:
    """Serialise `graph`, which takes float32 pixels, with its metadata, checked and sealed."""
    return _serialise(graph, properties)


def to_onnx_uint8(graph: ModelProto, properties: Mapping[str, str]) -> bytes:
    """As `to_onnx`, for raw uint8 pixels: one Cast, and 1/256 folded into the first linear layer's weights.

    1/256 is a power of two, so scaling the weights instead of the pixels changes no bit of any logit.
    """
    return _serialise(_from_uint8(graph), properties)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress prints and its talk about itself from the user; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _bare(model: ModelProto) -> ModelProto:
    """Drop what tells of the machine that exported: source paths, stack traces, doc strings, shapes seen on the way."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "mnist-edge", __version__
    return model


def _from_uint8(float_graph: ModelProto) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(float_graph)
    graph = model.graph
    gemm = next(node for node in graph.node if "pixels" in node.input)
    _fold_scale(model, gemm)
    gemm.input[0] = "pixels_float"
    cast = onnx.helper.make_node("Cast", ["pixels"], ["pixels_float"], name="cast", to=onnx.TensorProto.FLOAT)
    nodes = [cast, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return model


def _fold_scale(model: ModelProto, gemm: NodeProto) -> None:
    weight = next((w for w in model.graph.initializer if gemm.op_type == "Gemm" and w.name == gemm.input[1]), None)
    if weight is None:
        raise ExportError(f"onnx-uint8 needs a linear layer first, and this module begins with {gemm.op_type}")
    values = numpy_helper.to_array(weight)
    scaled = (values / np.float32(LEVELS)).astype(np.float32)
    if not np.array_equal(scaled * np.float32(LEVELS), values):
        raise ExportError("a weight is too small to carry the 1/256 exactly (below 2**-118); use --format onnx")
    weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))


def _serialise(graph: ModelProto, properties: Mapping[str, str]) -> bytes:
    model = ModelProto()
    model.CopyFrom(graph)
    onnx.helper.set_model_props(model, dict(sorted(metadata(properties).items())))
    onnx.checker.check_model(model, full_check=True)
    return seal(model.SerializeToString(deterministic=True))
