"""The formats `onnx` and `onnx-uint8`: one self-contained ONNX graph for float32 or for raw uint8 pixels."""

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.version_converter
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper
from torch import nn

from mnist_export.errors import ExportError
from mnist_export.formats import Recipe
from mnist_export.gate import Compute, in_batches
from mnist_export.golden import GOLDEN, Expected
from mnist_runtime import __version__
from mnist_runtime.digits import LEVELS, PIXELS, Intensities
from mnist_runtime.errors import first_line
from mnist_runtime.model.artifact import Artifact, metadata
from mnist_runtime.model.seal import seal

if TYPE_CHECKING:
    from mnist_export.bundle import Bundle

OPSET = 18
IR_VERSION = 8
"""Newest IR version that onnxruntime 1.15 reads; it refuses 10, the exporter's default."""
_OLDEST_CONVERTED = 15
"""Oldest opset to which onnx.version_converter translates Reshape and BatchNormalization; it lacks their adapters to 14
and 13."""
_INVALID = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
"""Errors of onnx.checker about a graph."""
OLDEST_ONNXRUNTIME = "1.15.1"
"""Oldest onnxruntime in which every ONNX format loads and passes in `make compat`."""


class Onnx(Recipe):
    """The module as an ONNX graph, run by onnxruntime."""

    def graph(self, bundle: "Bundle") -> ModelProto:
        """Return the graph to publish, bare."""
        return bundle.graph

    def build(self, bundle: "Bundle", expected: Expected) -> bytes:
        """Serialise the graph with its metadata and golden digits."""
        return to_onnx(self.graph(bundle), self.properties(bundle, expected))

    def properties(self, bundle: "Bundle", expected: Expected) -> dict[str, str]:
        """Return the metadata, golden digits among them."""
        return {
            "input": json.dumps(self.format.contract, sort_keys=True),
            "golden": expected.sets[GOLDEN].to_text(),
            "thresholds": expected.thresholds.to_text(),
            **bundle.properties,
        }

    def load(self, data: bytes) -> Compute:
        """Load `data` through the runtime, at its optimisation level."""
        artifact = Artifact.from_bytes(data, self.format.file)

        def compute(digits: Intensities) -> list[NDArray[np.float32]]:
            return artifact.run(digits, *artifact.outputs)

        return in_batches(compute)

    def describe(self, bundle: "Bundle") -> Mapping[str, Any]:
        """Return what an engine needs to load the file."""
        return {"opset": bundle.opset, "ir_version": IR_VERSION, "onnxruntime": f">={OLDEST_ONNXRUNTIME}"}


class OnnxUint8(Onnx):
    """The same graph for raw uint8 pixels."""

    def graph(self, bundle: "Bundle") -> ModelProto:
        """Return the graph with its pixels cast and scaled."""
        return uint8_graph(bundle.graph)


_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
"""Operators whose output differs from run to run."""


def trace(module: nn.Module) -> tuple[ModelProto, ModelProto]:
    """Trace `module`, float32 `[N, 784]` to logits, into a bare ONNX graph: the program without metadata.

    Returns:
        The graph as traced, and as PyTorch's exporter optimises it (for example, with BatchNorm folded into weights).

    Raises:
        ExportError: PyTorch's exporter cannot follow the module, or the module draws random numbers.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                (torch.zeros(2, PIXELS),),  # not 1: the exporter takes a dimension of 1 for a constant
                dynamo=True,
                external_data=False,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
            if program is None:
                raise ExportError("PyTorch's ONNX exporter returned nothing; install the torch of constraints.txt")
            traced = _bare(_copy(program.model_proto))
            program.optimize()
    except torch.onnx.errors.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        raise ExportError(
            f"PyTorch's ONNX exporter cannot follow this module: {reason}; change the module, or leave out the formats "
            "that need the exporter (onnx, onnx-uint8, triton) and name others: --format torchscript"
        ) from error
    if random := _RANDOM & {node.op_type for node in traced.graph.node}:
        raise ExportError(
            f"the module draws random numbers ({', '.join(sorted(random))}); remove them in evaluation mode"
        )
    return traced, _bare(program.model_proto)


def to_onnx(graph: ModelProto, properties: Mapping[str, str]) -> bytes:
    """Serialise `graph` with its metadata, checked and sealed.

    Raises:
        ExportError: onnx.checker, with shape inference, rejects the graph.
    """
    model = _bare(_copy(graph))
    try:
        properties = {**properties, "largest_layer": str(_largest_layer(model))}
        onnx.helper.set_model_props(model, dict(sorted(metadata(properties).items())))
        onnx.checker.check_model(model, full_check=True)
    except _INVALID as error:
        raise ExportError(f"the graph is not valid ONNX: {first_line(error)}") from error
    return seal(model.SerializeToString(deterministic=True))


def uint8_graph(float_graph: ModelProto) -> ModelProto:
    """Return the same graph for raw uint8 pixels: one Cast, and 1/256 folded into the factors of the pixels.

    1/256 is a power of two, so scaling the first linear layer's weights, or the factor of a normalisation, instead of
    the pixels changes no bit of any logit. If another operator takes the pixels, or a weight is too small to be divided
    exactly, a Mul scales the pixels instead.
    """
    model = _copy(float_graph)
    graph = model.graph
    scaled = "pixels_cast" if _fold_scale(graph) else "pixels_scaled"
    for node in graph.node:
        node.input[:] = [scaled if name == "pixels" else name for name in node.input]
    first = [onnx.helper.make_node("Cast", ["pixels"], ["pixels_cast"], name="cast", to=onnx.TensorProto.FLOAT)]
    if scaled == "pixels_scaled":
        first.append(onnx.helper.make_node("Mul", ["pixels_cast", "scale"], [scaled], name="scale"))
        graph.initializer.append(numpy_helper.from_array(np.array(1 / LEVELS, dtype=np.float32), "scale"))
    nodes = [*first, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress prints, warnings and log; errors still raise."""
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
    """Remove traces of the exporting machine: source paths, stack traces, doc strings, shapes recorded in tracing."""
    for part in (model, *model.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for function in model.functions:
        _strip_nodes(function.node)
    _strip(model.graph)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "mnist-edge", __version__
    return model


def _strip(graph: GraphProto) -> None:
    for part in (graph, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:  # graphs: the branches of an If, the body of a Loop
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _strip(graph)


def for_opset(model: ModelProto, opset: int) -> ModelProto:
    """Translate a bare graph of opset 18 to an older opset, 13 or newer.

    Raises:
        ExportError: this opset cannot express the module.
    """
    if opset == OPSET:
        return model
    try:
        older = _bare(onnx.version_converter.convert_version(model, max(opset, _OLDEST_CONVERTED)))
        if opset < _OLDEST_CONVERTED:
            _drop_attributes(older.graph)
            older.opset_import[0].version = opset
            onnx.checker.check_model(older, full_check=True)
    except (RuntimeError, onnx.version_converter.ConvertError, *_INVALID) as error:
        raise ExportError(
            f"opset {opset} cannot express this module ({first_line(error)}); use opset {OPSET}"
        ) from error
    return older


def _drop_attributes(graph: GraphProto) -> None:
    """Remove the attributes that opset 13 does not know and implies, because the converter refuses their operators.

    BatchNormalization never trains there. Reshape takes a size of 0 for that of its input, which differs only in an
    empty batch, if the graph computes the sizes; if it states a 0, the gate finds the difference.
    """
    for node in graph.node:
        implied = {"Reshape": "allowzero", "BatchNormalization": "training_mode"}.get(node.op_type)
        kept = [attribute for attribute in node.attribute if attribute.name != implied]
        node.ClearField("attribute")
        node.attribute.extend(kept)


def _largest_layer(model: ModelProto) -> int:
    """Return the size, in bytes of float32, of one digit's largest layer, by which the runtime chooses its batches."""
    layers = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    shapes = [[size.dim_value for size in layer.type.tensor_type.shape.dim] for layer in layers]
    of_a_digit: list[int] = [math.prod(sizes) for free, *sizes in filter(None, shapes) if free == 0]
    return 4 * max([PIXELS, *of_a_digit])


def _fold_scale(graph: GraphProto) -> bool:
    """Divide the weights that multiply the pixels by 256; return False if that is impossible or inexact."""
    readers = [node for node in graph.node if "pixels" in node.input]
    if len(readers) != 1 or readers[0].op_type not in {"Gemm", "MatMul", "Mul"} or readers[0].input[0] != "pixels":
        return False
    name = readers[0].input[1]
    weight = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    if weight is None or sum(name in node.input for node in graph.node) != 1:
        return False
    values = numpy_helper.to_array(weight)
    scaled = (values / np.float32(LEVELS)).astype(np.float32)
    if not np.array_equal(scaled * np.float32(LEVELS), values):
        return False
    weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
    return True


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
