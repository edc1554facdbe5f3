"""ONNX of an exact network: float32 operators of opset 13 only, and weights stored as int8."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mnist_export.exact.network import TOP, Convolution, ExactNetwork, Layer
from mnist_export.outputs import with_outputs
from mnist_runtime.digits import HEIGHT, PIXELS, WIDTH

OPSET = 13
"""Oldest opset with every operator in the form used here, so that old engines run the graph."""


def to_graph(network: ExactNetwork) -> ModelProto:
    """Print `network` as a graph from `pixels` uint8 `[batch, 784]` to the outputs of every artifact, float32.

    Logits have the units of the trained module: each is its integer times a power of two, which rounds nothing.
    """
    graph = _Graph()
    x = graph.node("Cast", "pixels", to=TensorProto.FLOAT)
    if isinstance(network.layers[0], Convolution):
        x = graph.node("Reshape", x, graph.tensor("picture", np.array([0, 1, HEIGHT, WIDTH])))  # 0 keeps the batch
    for number, (layer, shape) in enumerate(zip(network.layers, network.shapes(), strict=False), start=1):
        if not isinstance(layer, Convolution) and number > 1 and shape[1:] != (1, 1):
            x = graph.node("Flatten", x)
        x = _layer(graph, x, layer, f"layer{number}")
    graph.node("Mul", x, graph.tensor("logit_scale", np.float32(2.0**network.exponent)), output="logits")
    return with_outputs(graph.model(network.outputs))


def _layer(graph: "_Graph", x: str, layer: Layer, name: str) -> str:
    """Add the nodes of one layer, and return the name of their output."""
    weight = graph.node("Cast", graph.tensor(f"{name}.weight", layer.weight), to=TensorProto.FLOAT)
    bias = graph.tensor(f"{name}.bias", layer.bias.astype(np.float32))
    if isinstance(layer, Convolution):
        x = graph.node("Conv", x, weight, bias, strides=[layer.stride] * 2, pads=[layer.padding] * 4)
    else:
        x = graph.node("Gemm", x, weight, bias, transB=1)
    if layer.shift is None:
        return x
    scale = np.ldexp(np.float32(1), -layer.shift.astype(np.int32))
    x = graph.node("Mul", x, graph.tensor(f"{name}.scale", scale.reshape(-1, *[1] * (layer.weight.ndim - 2))))
    x = graph.node("Floor", x)
    x = graph.node("Clip", x, graph.tensor("bottom", np.float32(0)), graph.tensor("top", np.float32(TOP)))
    if isinstance(layer, Convolution) and layer.pool > 1:
        x = graph.node("MaxPool", x, kernel_shape=[layer.pool] * 2, strides=[layer.pool_stride] * 2)
    return x


class _Graph:
    """A graph under construction; the name of a node is that of its output."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}

    def tensor(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        self._tensors[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def model(self, outputs: int) -> ModelProto:
        pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", PIXELS])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", outputs])
        graph = helper.make_graph(self._nodes, "mnist", [pixels], [logits], list(self._tensors.values()))
        return helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
