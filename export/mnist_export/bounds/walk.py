"""The walk: carry values and error bounds through an ONNX graph, from pixels to logits, in float64."""

from collections.abc import Iterator, Mapping
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
    Affine,
    Node,
    NoRuleError,
    Value,
    affine_of_batch_norm,
)
from mnist_runtime.cpus import usable_cpus
from mnist_runtime.digits import LEVELS, Intensities
from mnist_runtime.model.comparison import Logits

_CHUNK = 32
"""Digits that are walked together; values and bounds of a small network's layers then take some 50 MB."""
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_AFFINE = {
    "Conv": {*_ARITHMETIC, "BatchNormalization"},
    "Gemm": {*_ARITHMETIC, "BatchNormalization"},
    "MatMul": _ARITHMETIC,
}
"""Linear operators, and the affine operators that are computed with them."""


@dataclass(frozen=True)
class Walk:
    """Logits of digits and their bounds, float64 `[N, 10]` each."""

    logits: Logits
    """Logits of the graph in float64."""
    probable: Logits
    """Bounds on a float32 engine's errors, with high probability."""
    worst_case: Logits
    """Bounds on a float32 engine's errors, in any order of direct summation."""


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
    """Give each chunk one thread, because torch's own threads spin while they wait, and small operators wait often."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Graph:
    """An ONNX graph, prepared for walks over many chunks."""

    def __init__(self, model: ModelProto) -> None:
        self.constants = {tensor.name: _tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
        nodes: list[NodeProto] = []
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = _constant(node)
                continue
            nodes.append(node)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.steps: list[tuple[Node, list[str], str]] = []
        """Nodes, each with the names of its inputs and its output."""
        followed: set[str] = set()
        for node in nodes:
            if node.output[0] not in followed:
                after, outputs = self._after(node)
                followed.update(outputs)
                self.steps.append((_node(node, after), list(node.input), outputs[-1]))
        self.last = {name: index for index, (_, inputs, _) in enumerate(self.steps) for name in inputs}
        """Index of the last step that reads a name."""

    @torch.no_grad()
    def logits(self, digits: Intensities) -> Bounded:
        """Return the logits of one chunk of digits."""
        values: dict[str, Value] = {"": None, **self.constants}
        values["pixels"] = Bounded.exact(torch.from_numpy(np.divide(digits, LEVELS, dtype=np.float64)))
        for index, (node, inputs, output) in enumerate(self.steps):
            if "logits" in values:
                break
            values[output] = _apply(node, inputs, values)
            for name in {*inputs} - {""} - self.constants.keys():
                if self.last[name] == index:
                    del values[name]
        logits = values["logits"]
        if not isinstance(logits, Bounded):
            raise NoRuleError("logits that do not depend on pixels")
        return logits

    def _after(self, node: NodeProto) -> tuple[Affine, list[str]]:
        """Follow the constant affine operators after a linear one; return their map and the outputs on the way."""
        after, outputs = Affine.identity(), [node.output[0]]
        weight = self.constants.get(node.input[1]) if node.op_type in _AFFINE else None
        if weight is None:
            return after, outputs
        axis = 1 - weight.ndim if node.op_type == "Conv" else -1  # of the channels
        while outputs[-1] != "logits" and len(readers := self.readers.get(outputs[-1], [])) == 1:
            (reader,) = readers
            constants = [self.constants.get(name) for name in reader.input if name != outputs[-1]]
            known = [constant.double() for constant in constants if constant is not None]
            if len(known) < len(constants) or reader.op_type not in _AFFINE[node.op_type]:
                break
            further = _then(after, reader, known, axis, first=reader.input[0] == outputs[-1])
            if further is None:
                break
            after = further
            outputs.append(reader.output[0])
        return after, outputs


def _apply(node: Node, inputs: list[str], values: Mapping[str, Value]) -> Value:
    """Apply the rule of a node; a use of the operator that its rule does not foresee counts as one without a rule."""
    if node.operator not in RULES:
        raise NoRuleError(node.operator)
    try:
        return RULES[node.operator](node, *(values[name] for name in inputs))
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise NoRuleError(node.operator) from error


def _then(after: Affine, node: NodeProto, constants: list[Tensor], axis: int, *, first: bool) -> Affine | None:
    """Return the map `after` followed by one more node; None if that is not affine, channel by channel.

    Args:
        after: Map so far.
        node: Next node.
        constants: Its other inputs.
        axis: Axis of the channels, counted from the last.
        first: True if the value is the node's first input.
    """
    if node.op_type == "BatchNormalization":
        factor, bias, mean = affine_of_batch_norm(_attributes(node), *constants)
        return after.plus(-mean, 0).times(factor, 0).plus(bias, BATCH_NORM_ROUNDINGS)
    (constant,) = constants
    if constant.numel() > 1 and (constant.ndim < -axis or constant.shape[axis] != constant.numel()):
        return None
    constant = constant.reshape(-1)
    further = None
    match node.op_type, first:
        case "Mul", _:
            further = after.times(constant, 1)
        case "Div", True:
            further = after.times(1 / constant, 3)  # a quotient, or a reciprocal and a product with it
        case "Add", _:
            further = after.plus(constant, 1)
        case "Sub", True:
            further = after.plus(-constant, 1)
    return further


def _node(node: NodeProto, after: Affine) -> Node:
    return Node(node.op_type if not node.domain else f"{node.domain}.{node.op_type}", _attributes(node), after)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def _constant(node: NodeProto) -> Tensor:
    value: Any = onnx.helper.get_attribute_value(node.attribute[0])
    return _tensor(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value))


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))
