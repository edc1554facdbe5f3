"""The rules of the walk: for each ONNX operator, the exact value and the error bound of its output.

A rule takes the node's attributes, the constant affine map that follows it (`Affine`), and the inputs: `Bounded` for
what depends on the digits, a plain tensor for constants and shapes, None for an input left out. Operators are those of
opsets 13 to 18: https://onnx.ai/onnx/operators/
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from mnist_export.bounds.bounded import Bounded, clipped, curved, summed, underflow
from mnist_runtime.model.comparison import SMALLEST_NORMAL, UNIT_ROUNDOFF

Value: TypeAlias = Bounded | Tensor | None

_FEW_ULPS = 8 * UNIT_ROUNDOFF
"""Absolute error allowed to an engine's own sigmoid, tanh or erf, whose values are at most 1; onnxruntime's rational
approximations were seen to be off by less than half of it."""


class NoRuleError(Exception):
    """An operator, or a use of one, without a rule; the message names the operator."""


@dataclass(frozen=True)
class Affine:
    """A map of a linear operator's output, channel by channel: `scale * output + offset`.

    The map stands for the constant Add, Sub, Mul, Div and BatchNormalization that follow the operator. An engine
    computes them one after the other, or folds them into the weights, as onnxruntime does. Either way each term of the
    sum, and of the offset, is rounded at most `roundings` times more, so one bound covers both.
    """

    scale: Tensor
    """Factors, float64 `[channels]` or `[1]`."""
    offset: Tensor
    """Summands, float64 `[channels]` or `[1]`."""
    magnitude: Tensor
    """Sums of the absolute values of the offsets' terms, float64 `[channels]` or `[1]`."""
    roundings: int
    """Further roundings of each term."""

    @classmethod
    def identity(cls) -> "Affine":
        """Return the map that changes nothing."""
        return cls(torch.ones(1).double(), torch.zeros(1).double(), torch.zeros(1).double(), 0)

    def times(self, factor: Tensor, roundings: int) -> "Affine":
        """Return this map followed by a product."""
        size = factor.abs()
        return Affine(self.scale * factor, self.offset * factor, self.magnitude * size, self.roundings + roundings)

    def plus(self, summand: Tensor, roundings: int) -> "Affine":
        """Return this map followed by a sum."""
        magnitude = self.magnitude + summand.abs()
        return Affine(self.scale, self.offset + summand, magnitude, self.roundings + roundings)


@dataclass(frozen=True)
class Node:
    """A node as a rule sees it; its inputs are arguments of the rule."""

    operator: str
    """Name of the operator: "Conv"."""
    attributes: Mapping[str, Any]
    """Attributes by name."""
    after: Affine
    """Map that follows a linear operator and is computed with it."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or `default` if the node has none of that name."""
        return self.attributes.get(name, default)

    def require(self, condition: object) -> None:
        """Raise unless the rule covers this use of the operator.

        Raises:
            NoRuleError: naming the operator.
        """
        if not condition:
            raise NoRuleError(self.operator)


Rule: TypeAlias = Callable[..., Value]


def _bounded(x: Value) -> Bounded:
    if isinstance(x, Bounded):
        return x
    assert x is not None  # noqa: S101  # an ONNX graph leaves out no required input
    return Bounded.exact(x)


# Linear operators


def _gemm(node: Node, x: Value, weight: Value, bias: Value = None) -> Bounded:
    node.require(node.get("alpha", 1.0) == node.get("beta", 1.0) == 1 and not node.get("transA"))
    node.require(isinstance(x, Bounded) and isinstance(weight, Tensor) and not isinstance(bias, Bounded))
    weight = weight.mT if node.get("transB") else weight  # type: ignore[union-attr]
    return _linear(node, x, weight, bias)  # type: ignore[arg-type]


def _matmul(node: Node, x: Value, weight: Value) -> Bounded:
    node.require(isinstance(x, Bounded) and isinstance(weight, Tensor) and weight.ndim == 2)
    return _linear(node, x, weight, None)  # type: ignore[arg-type]


def _linear(node: Node, x: Bounded, weight: Tensor, bias: Tensor | None) -> Bounded:
    weight = weight.double() * node.after.scale
    offset, magnitude = _bias(node, bias, len(weight))
    size = weight.abs().float()
    error = x.error @ size if x.error[1].any() else torch.zeros(2, *x.value.shape[:-1], weight.shape[1])
    n = x.nonzero.sum(-1, keepdim=True) + 1 + node.after.roundings
    return summed(x.value @ weight + offset, error, x.magnitude @ size + magnitude, n, len(weight))


def _bias(node: Node, bias: Tensor | None, terms: int) -> tuple[Tensor, Tensor]:
    """Return the bias under the map that follows, float64, and its magnitude including underflow, float32."""
    after = node.after
    bias = torch.zeros(1) if bias is None else bias
    magnitude = (bias.double().abs() + underflow(terms)) * after.scale.abs() + after.magnitude + underflow(terms)
    return bias.double() * after.scale + after.offset, magnitude.float()


def _conv(node: Node, x: Value, weight: Value, bias: Value = None) -> Bounded:
    node.require(isinstance(x, Bounded) and isinstance(weight, Tensor) and not isinstance(bias, Bounded))
    node.require(node.get("auto_pad", b"NOTSET") == b"NOTSET")
    return _convolve(node, _bounded(x), weight.double(), bias)  # type: ignore[union-attr, arg-type]


def _convolve(node: Node, x: Bounded, weight: Tensor, bias: Tensor | None) -> Bounded:
    dims = weight.ndim - 2
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]
    how = {"stride": node.get("strides", [1] * dims), "dilation": node.get("dilations", [1] * dims)}
    groups = node.get("group", 1)
    if any(pads := node.get("pads", [])):
        x = x.each(lambda tensor: F.pad(tensor, _torch_padding(pads)))
    column = (-1, *[1] * dims)  # channels of [N, C, H, W]
    weight = weight * node.after.scale.reshape(-1, 1, *[1] * dims)
    offset, magnitude = (each.reshape(column) for each in _bias(node, bias, weight[0].numel()))
    value = convolve(x.value, weight, groups=groups, **how).add_(offset)
    parts = [x.magnitude, *(x.error if x.error[1].any() else ())]
    sums = convolve(torch.cat(parts), weight.abs().float(), groups=groups, **how)
    sums = sums.reshape(len(parts), *value.shape)
    nonzero = x.nonzero.sum(1, keepdim=True).float()  # counts are small integers, which float32 holds
    n = convolve(nonzero, nonzero.new_ones(1, 1, *weight.shape[2:]), **how) + 1 + node.after.roundings
    error = sums[1:] if len(parts) > 1 else torch.zeros(2, *value.shape)
    return summed(value, error, sums[0].add_(magnitude), n, weight[0].numel())


def _torch_padding(pads: list[int]) -> list[int]:
    """Turn ONNX's begins and ends, first axis first, into the pairs of `torch.nn.functional.pad`, last axis first."""
    half = len(pads) // 2
    return [pads[axis + side] for axis in reversed(range(half)) for side in (0, half)]


def _batch_normalization(  # the operator's own inputs
    node: Node, x: Value, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Bounded:
    node.require(isinstance(x, Bounded) and not node.get("training_mode"))
    scale, bias, mean = affine_of_batch_norm(node.attributes, scale, bias, mean, variance)
    x = _bounded(x)
    scale, bias, mean = (each.reshape(-1, *[1] * (x.value.ndim - 2)) for each in (scale, bias, mean))
    result = Bounded((x.value - mean) * scale + bias, x.error * scale.abs().float())
    terms = (x.magnitude + mean.abs().float()) * scale.abs().float() + bias.abs().float()
    return result.rounded(BATCH_NORM_ROUNDINGS, terms)


BATCH_NORM_ROUNDINGS = 8
"""var + eps, square root, quotient, difference, product and sum, in either order of evaluation, with room for two."""


def affine_of_batch_norm(
    attributes: Mapping[str, Any], scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, bias and mean of `(x - mean) * scale + bias`."""
    epsilon = attributes.get("epsilon", 1e-5)
    return scale.double() / (variance.double() + epsilon).sqrt(), bias.double(), mean.double()


# Averages: linear maps with weights 1/n


def _mean(x: Bounded, average: Callable[[Tensor], Tensor], count: int) -> Bounded:
    mean, magnitude = x.each(average), average(x.magnitude).add_(underflow(count))
    return summed(mean.value, mean.error, magnitude, torch.tensor(count + 1), count)


def _average_pool(node: Node, x: Value) -> Bounded:
    kernel = node.get("kernel_shape")
    pads = node.get("pads", [0] * 2 * len(kernel))
    node.require(len(kernel) == 2 and pads[:2] == pads[2:] and set(node.get("dilations", [1])) == {1})
    how = {
        "stride": node.get("strides", [1, 1]),
        "padding": pads[:2],
        "ceil_mode": bool(node.get("ceil_mode", 0)),
        "count_include_pad": bool(node.get("count_include_pad", 0)),
    }
    return _mean(_bounded(x), lambda tensor: F.avg_pool2d(tensor, kernel, **how), math.prod(kernel))


def _global_average_pool(_: Node, x: Value) -> Bounded:
    x = _bounded(x)
    axes = tuple(range(2, x.value.ndim))
    return _mean(x, lambda tensor: tensor.mean(axes, keepdim=True), math.prod(x.value.shape[2:]))


def _reduce_mean(node: Node, x: Value, axes: Value = None) -> Bounded:
    x = _bounded(x)
    named = axes.tolist() if isinstance(axes, Tensor) else node.get("axes", list(range(x.value.ndim)))
    count = math.prod(x.value.shape[axis] for axis in named)
    return _mean(x, lambda tensor: tensor.mean(named, keepdim=bool(node.get("keepdims", 1))), count)


# Element by element


def _add(_: Node, a: Value, b: Value) -> Value:
    return _sum(a, b, 1)


def _sub(_: Node, a: Value, b: Value) -> Value:
    return _sum(a, b, -1)


def _sum(a: Value, b: Value, sign: int) -> Value:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a + sign * b
    a, b = _aligned(a, b)
    return Bounded(a.value + sign * b.value, a.error + b.error).rounded()


def _mul(_: Node, a: Value, b: Value) -> Value:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a * b
    a, b = _aligned(a, b)
    error = a.magnitude * b.error + b.magnitude * a.error + a.error * b.error
    return Bounded(a.value * b.value, error).rounded()


def _div(node: Node, a: Value, b: Value) -> Value:
    node.require(isinstance(b, Tensor) and b.is_floating_point())
    a, b = _aligned(a, b)
    return Bounded(a.value / b.value, a.error / b.magnitude).rounded(3)  # or a reciprocal, and a product with it


def _aligned(a: Value, b: Value) -> tuple[Bounded, Bounded]:
    """Give both operands the same number of dimensions, because errors have one more in front."""
    a, b = _bounded(a), _bounded(b)
    dims = max(a.value.ndim, b.value.ndim)

    def widen(x: Bounded) -> Bounded:
        ones = [1] * (dims - x.value.ndim)
        return Bounded(x.value.reshape(*ones, *x.value.shape), x.error.reshape(2, *ones, *x.value.shape))

    return widen(a), widen(b)


def _relu(_: Node, x: Value) -> Bounded:
    return clipped(_bounded(x), 0.0, math.inf)


def _leaky_relu(node: Node, x: Value) -> Bounded:
    slope = node.get("alpha", 0.01)
    node.require(0 <= slope <= 1)
    return curved(_bounded(x), lambda tensor: F.leaky_relu(tensor, slope), 1.0, 0.0).rounded(2)  # alpha is rounded, too


def _clip(node: Node, x: Value, low: Value = None, high: Value = None) -> Bounded:
    node.require(not isinstance(low, Bounded) and not isinstance(high, Bounded))
    least = -math.inf if low is None else float(low)  # type: ignore[arg-type]
    most = math.inf if high is None else float(high)  # type: ignore[arg-type]
    return clipped(_bounded(x), least, most)


def _max(node: Node, *inputs: Value) -> Value:
    return _against(node, inputs, lambda x, limit: clipped(x, limit, torch.full_like(limit, math.inf)))


def _min(node: Node, *inputs: Value) -> Value:
    return _against(node, inputs, lambda x, limit: clipped(x, torch.full_like(limit, -math.inf), limit))


def _against(node: Node, inputs: tuple[Value, ...], clip: Callable[[Bounded, Tensor], Bounded]) -> Value:
    if len(inputs) == 1:  # the exporter writes such a Max for the shape of indices
        return inputs[0]
    node.require(len(inputs) == 2)
    a, b = inputs
    node.require(isinstance(a, Bounded) != isinstance(b, Bounded))
    x, constant = (a, b) if isinstance(a, Bounded) else (b, a)
    limit = _plain(constant).double()
    node.require(limit.ndim <= _bounded(x).value.ndim)
    return clip(_bounded(x), limit)


def _sigmoid(_: Node, x: Value) -> Bounded:
    return curved(_bounded(x), torch.sigmoid, 0.25, _FEW_ULPS)


def _tanh(_: Node, x: Value) -> Bounded:
    return curved(_bounded(x), torch.tanh, 1.0, _FEW_ULPS)


def _erf(_: Node, x: Value) -> Bounded:
    return curved(_bounded(x), torch.erf, 2 / math.sqrt(math.pi), _FEW_ULPS)


def _hard_sigmoid(node: Node, x: Value) -> Bounded:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    node.require(alpha >= 0)
    x = _bounded(x)
    line = Bounded(alpha * x.value + beta, alpha * x.error).rounded(3, alpha * x.magnitude + abs(beta))
    return clipped(line, 0.0, 1.0)


def _hard_swish(_: Node, x: Value) -> Bounded:
    return _smooth(_bounded(x), F.hardswish, 1.5)


def _gelu(node: Node, x: Value) -> Bounded:
    approximate = node.get("approximate", b"none").decode()
    return _smooth(_bounded(x), lambda tensor: F.gelu(tensor, approximate=approximate), 1.13)


def _smooth(x: Bounded, function: Callable[[Tensor], Tensor], slope: float) -> Bounded:
    """Apply a function of largest slope `slope` and at most |x| in absolute value, computed with a few roundings."""
    curve = curved(x, function, slope, 0.0)
    return curve.rounded(2 * _FEW_ULPS / UNIT_ROUNDOFF, x.magnitude)


def _softmax(node: Node, x: Value) -> Bounded:
    """Bound each probability as `mnist_runtime.model.comparison.probability_tolerance` does."""
    x, axis = _bounded(x), node.get("axis", -1)
    value = torch.softmax(x.value, axis)
    moved, relative = _exponentials(x, axis)
    factor = moved.clamp(max=256.0).exp()
    error = (value * (factor - 1 + factor * relative) + SMALLEST_NORMAL).clamp(max=1.0)
    return Bounded(value, error.float()).rounded()


def _log_softmax(node: Node, x: Value) -> Bounded:
    x, axis = _bounded(x), node.get("axis", -1)
    value = torch.log_softmax(x.value, axis)
    moved, relative = _exponentials(x, axis)
    return Bounded(value, (moved + relative).float().expand(2, *value.shape)).rounded(2)


def _exponentials(x: Bounded, axis: int) -> tuple[Tensor, Tensor]:
    """Return how far errors of the inputs, and how far rounding, can move the logarithm of a softmax, `[2, ...]`."""
    after = axis if axis < 0 else axis + 1
    moved = 2 * x.error.double().amax(after, keepdim=True)
    spread = (x.value.amax(axis, keepdim=True) - x.value.amin(axis, keepdim=True)) + moved
    return moved, (2 * spread + 32 + x.value.shape[axis]) * UNIT_ROUNDOFF


def _max_pool(node: Node, x: Value) -> Bounded:
    kernel = node.get("kernel_shape")
    pads = node.get("pads", [0] * 2 * len(kernel))
    node.require(len(kernel) == 2 and pads[:2] == pads[2:] and not node.get("storage_order"))
    if not any(pads) and not node.get("ceil_mode") and set(node.get("dilations", [1])) == {1}:
        rows, columns = zip(kernel, node.get("strides", [1, 1]), strict=True)
        return _bounded(x).each(lambda tensor: _largest(_largest(tensor.mT, *rows).mT, *columns))
    how = {
        "stride": node.get("strides", [1, 1]),
        "padding": pads[:2],
        "dilation": node.get("dilations", [1, 1]),
        "ceil_mode": bool(node.get("ceil_mode", 0)),
    }
    return _bounded(x).each(lambda tensor: F.max_pool2d(tensor, kernel, **how))


def _largest(x: Tensor, size: int, stride: int) -> Tensor:
    """Return the largest element of each window along the last axis; four times as fast as `F.max_pool2d`."""
    last = x.shape[-1] - size + 1
    return functools.reduce(torch.maximum, (x[..., start : start + last : stride] for start in range(size)))


# Operators that only move elements


def _moved(x: Value, move: Callable[[Tensor], Tensor]) -> Value:
    return x.each(move) if isinstance(x, Bounded) else move(_plain(x))


def _plain(x: Value) -> Tensor:
    if not isinstance(x, Tensor):
        raise NoRuleError("a shape computed from pixels")
    return x


def _flatten(node: Node, x: Value) -> Value:
    axis = node.get("axis", 1)
    return _moved(x, lambda tensor: tensor.reshape(math.prod(tensor.shape[:axis]), -1))


def _reshape(node: Node, x: Value, shape: Value) -> Value:
    keep = not node.get("allowzero")

    def reshape(tensor: Tensor) -> Tensor:
        sizes = enumerate(_plain(shape).tolist())
        return tensor.reshape([tensor.shape[axis] if size == 0 and keep else size for axis, size in sizes])

    return _moved(x, reshape)


def _transpose(node: Node, x: Value) -> Value:
    return _moved(x, lambda tensor: tensor.permute(node.get("perm", list(reversed(range(tensor.ndim))))))


def _pad(node: Node, x: Value, pads: Value, fill: Value = None, axes: Value = None) -> Value:
    node.require(node.get("mode", b"constant") == b"constant" and axes is None and isinstance(x, Bounded))
    amount, value = _torch_padding(_plain(pads).tolist()), 0.0 if fill is None else float(_plain(fill))
    x = _bounded(x)
    return Bounded(F.pad(x.value, amount, value=value), F.pad(x.error, amount))


def _concat(node: Node, *inputs: Value) -> Value:
    axis = node.get("axis")
    if all(isinstance(x, Tensor) for x in inputs):
        return torch.cat([_plain(x) for x in inputs], axis)
    parts = [_bounded(x) for x in inputs]
    errors = [torch.cat([part.error[side] for part in parts], axis) for side in (0, 1)]
    return Bounded(torch.cat([part.value for part in parts], axis), torch.stack(errors))


def _slice(node: Node, x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None) -> Value:
    first, last = _plain(starts).tolist(), _plain(ends).tolist()
    named = list(range(len(first))) if axes is None else _plain(axes).tolist()
    strides = [1] * len(first) if steps is None else _plain(steps).tolist()
    node.require(min(strides) > 0)

    def cut(tensor: Tensor) -> Tensor:
        where = [slice(None)] * tensor.ndim
        for start, end, axis, step in zip(first, last, named, strides, strict=True):
            where[axis] = slice(start, end, step)
        return tensor[tuple(where)]

    return _moved(x, cut)


def _squeeze(_: Node, x: Value, axes: Value = None) -> Value:
    return _moved(x, lambda tensor: tensor.squeeze() if axes is None else tensor.squeeze(tuple(_plain(axes).tolist())))


def _unsqueeze(_: Node, x: Value, axes: Value) -> Value:
    def widen(tensor: Tensor) -> Tensor:
        dims = tensor.ndim + len(_plain(axes))
        for axis in sorted(axis % dims for axis in _plain(axes).tolist()):
            tensor = tensor.unsqueeze(axis)
        return tensor

    return _moved(x, widen)


def _identity(_: Node, x: Value, *__: Value) -> Value:
    return x


def _cast(node: Node, x: Value) -> Value:
    return _converted(node, x, to_float=node.get("to") in {TensorProto.FLOAT, TensorProto.DOUBLE})


def _cast_like(node: Node, x: Value, like: Value) -> Value:
    return _converted(node, x, to_float=isinstance(like, Bounded) or _plain(like).is_floating_point())


def _converted(node: Node, x: Value, *, to_float: bool) -> Value:
    if isinstance(x, Bounded):
        node.require(to_float)
        return x
    return _plain(x).double() if to_float else _plain(x).long()


def _shape(node: Node, x: Value) -> Tensor:
    sizes = x.value.shape if isinstance(x, Bounded) else _plain(x).shape
    return torch.tensor(sizes[node.get("start", 0) : node.get("end")])


def _gather(node: Node, x: Value, indices: Value) -> Value:
    where = _plain(indices)

    def gather(tensor: Tensor) -> Tensor:
        axis = node.get("axis", 0) % tensor.ndim
        shape = (*tensor.shape[:axis], *where.shape, *tensor.shape[axis + 1 :])
        return tensor.index_select(axis, where.reshape(-1) % tensor.shape[axis]).reshape(shape)

    return _moved(x, gather)


def _expand(node: Node, x: Value, shape: Value) -> Value:
    node.require(isinstance(x, Tensor))
    return _plain(x).expand(np.broadcast_shapes(_plain(x).shape, tuple(_plain(shape).tolist())))


RULES: Mapping[str, Rule] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _div,
    "Dropout": _identity,
    "Erf": _erf,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _identity,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "Max": _max,
    "MaxPool": _max_pool,
    "Min": _min,
    "Mul": _mul,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _sub,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Rules by operator."""
