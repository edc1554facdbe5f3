"""The walk: carry values and error bounds through an ONNX graph, from pixels to logits, in float64."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor

from mnist_export.bounds.bounded import Bounded
from mnist_export.bounds.rules import (
    BATCH_NORM_ROUNDINGS,
    RULES,
    Absorbed,
    Node,
    NoRuleError,
    Value,
    affine_of_batch_norm,
)
from mnist_runtime.cpus import usable_cpus
from mnist_runtime.digits import LEVELS, Intensities
from mnist_runtime.model.comparison import Logits

_CHUNK = 64
"""Digits walked together: the values and bounds of a small network's layers then take some 100 MB."""
_AFFINE = {"Add", "Sub", "Mul", "Div", "BatchNormalization"}


@dataclass(frozen=True)
class Walk:
    """Logits of digits and their bounds, float64 `[N, 10]` each."""

    logits: Logits
    """Logits of the graph in float64."""
    probable: Logits
    """Bound on a float32 engine's error, with high probability."""
    worst_case: Logits
    """Bound on a float32 engine's error, in any order of direct summation."""


def walk(model: ModelProto, digits: Intensities) -> Walk:
    """Walk a bare float32 graph, `pixels` to `logits`, for uint8 `[N, 784]` digits.

    Raises:
        NoRuleError: naming the first operator without a rule.
    """
    graph = _Graph(model)
    parts = [digits[start : start + _CHUNK] for start in range(0, len(digits), _CHUNK)]
    with _one_thread(), ThreadPoolExecutor(usable_cpus()) as pool:
        chunks = list(pool.map(graph.logits, parts))
    logits = torch.cat([chunk.value for chunk in chunks]).numpy()
    probable, worst_case = (torch.cat([chunk.error[side] for chunk in chunks]).double().numpy() for side in (0, 1))
    return Walk(logits, probable, worst_case)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give each chunk one thread: torch's own threads spin while they wait, and small operators wait a lot."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Graph:
    """An ONNX graph, prepared for many walks."""

    def __init__(self, model: ModelProto) -> None:
        self.constants = {tensor.name: _tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = _constant(node)
                continue
            self.nodes.append(node)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    @torch.no_grad()
    def logits(self, digits: Intensities) -> Bounded:
        """Return the logits of one chunk of digits."""
        values: dict[str, Value] = {"": None, **self.constants}
        values["pixels"] = Bounded.exact(torch.from_numpy(np.divide(digits, LEVELS, dtype=np.float64)))
        for node in self.nodes:
            if "logits" in values:
                break
            if node.op_type not in RULES or node.domain:
                raise NoRuleError(node.op_type)
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            how = Node(node.op_type, attributes, self._absorbed(node))
            values[node.output[0]] = RULES[node.op_type](how, *(values[name] for name in node.input))
            for name in node.input:
                if name in self.readers and self.readers[name][-1] is node and name not in self.constants:
                    values.pop(name, None)  # nobody reads it again
        logits = values["logits"]
        if not isinstance(logits, Bounded):
            raise NoRuleError("logits that do not depend on pixels")
        return logits

    def _absorbed(self, node: NodeProto) -> Absorbed:
        """Follow the constant affine operators after a linear one, which an optimiser may fold into it."""
        roundings, magnitude, scale = 0, torch.zeros(()).double(), torch.ones(()).double()
        if node.op_type not in {"Conv", "MatMul", "Gemm"}:
            return Absorbed()
        dims = len(self.constants[node.input[1]].shape) - 2 if node.op_type == "Conv" else 0
        while True:
            readers = self.readers.get(node.output[0], [])
            constants = [self.constants.get(name) for name in readers[0].input] if readers else []
            if len(readers) != 1 or readers[0].op_type not in _AFFINE or constants.count(None) != 1:
                return Absorbed(roundings, magnitude.float())
            node = readers[0]
            known = [constant.double() for constant in constants if constant is not None]
            if node.op_type == "BatchNormalization":
                attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
                factor, bias, mean = affine_of_batch_norm(attributes, *known)
                column = (-1, *[1] * dims)  # channels of [N, C, H, W]
                factor, bias, mean = factor.reshape(column), bias.reshape(column), mean.reshape(column)
                magnitude = magnitude + mean.abs() / scale
                scale = _above_zero(scale * factor.abs())
                magnitude = magnitude + bias.abs() / scale
                roundings += BATCH_NORM_ROUNDINGS
            elif node.op_type in {"Mul", "Div"}:
                factor = known[0] if node.op_type == "Mul" else 1 / known[0]
                scale = _above_zero(scale * factor.abs())
                roundings += 2
            else:
                magnitude = magnitude + known[0].abs() / scale
                roundings += 1


def _above_zero(scale: Tensor) -> Tensor:
    """Replace the factor of a channel that is multiplied by 0, where no bias can matter before it."""
    return torch.where(scale == 0, torch.inf, scale)


def _constant(node: NodeProto) -> Tensor:
    value: Any = onnx.helper.get_attribute_value(node.attribute[0])
    return _tensor(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value))


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))
