"""Rounding: from a trained module to the exact network that gives the same answers.

Every scale is a power of two that minimises the squared error of rounding. Weights have one scale per output channel of
a hidden layer, and one for the whole last layer, because logits are compared with one another. Scales of activations
are chosen on calibration digits, without their labels.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mnist_export.errors import ExportError
from mnist_export.exact.network import (
    LARGEST_SHIFT,
    LIMIT,
    TOP,
    Convolution,
    ExactNetwork,
    InexactError,
    Layer,
    Linear,
    sum_bounds,
)
from mnist_export.network import Normalised, float64
from mnist_runtime.digits import HEIGHT, LEVELS, WIDTH, Intensities
from mnist_runtime.errors import first_line
from mnist_train.models import Pictures

CALIBRATION_DIGITS = 1000
"""Number of training digits, from the first, on which the scales of the activations are chosen."""

_LARGEST_WEIGHT = 127
_PIXEL_EXPONENT = LEVELS.bit_length() - 1  # a pixel is its intensity times 2**-8
_CANDIDATES = range(-6, 3)  # exponents to try, relative to the one that makes the largest weight 127
_POSSIBLE = (
    "an exact network may use Linear, Conv2d (no groups, no dilation), BatchNorm and then ReLU after each but the "
    "last, MaxPool2d, Flatten, Dropout and a final LogSoftmax"
)
_RESHAPES = {"contiguous", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view", "Flatten", "Unflatten"}
_CASTS = {"float", "to", "type"}
_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
"""Arguments of `torch.max_pool2d` after the input."""


@dataclass(frozen=True)
class _Step:
    """One operation of the module, with its input and output for the calibration digits."""

    name: str
    operation: str
    """Class of the module, or name of the function or method."""
    module: nn.Module | None
    """The module, or one that does the same as the function or method; None if there is none."""
    before: Tensor
    after: Tensor
    in_a_row: bool
    """True if the operation takes the output of the one before it, and no other tensor."""


@dataclass(frozen=True)
class _Affine:
    """A linear layer or convolution in float64, with the batch norm and the pooling after it."""

    name: str
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    stride: int
    padding: int
    pool: int = 1
    pool_stride: int = 1
    activations: NDArray[np.float64] | None = None
    """Outputs of the ReLU after it for the calibration digits; None without ReLU."""


def exact(module: nn.Module, digits: Intensities) -> ExactNetwork:
    """Round `module`, float32 `[N, 784]` to logits `[N, outputs]`, to an exact network.

    Args:
        module: Linear, Conv2d, ReLU, MaxPool2d, Flatten, BatchNorm and Dropout in a row, as `nn.Sequential` or as a
            `forward` that calls these layers or the functions of their names. It is run in evaluation mode, on a copy.
        digits: Training digits, uint8 `[N, 784]`, on which the scales of the activations are chosen.

    Raises:
        ExportError: the module holds something else; the sentence names the layer.
        InexactError: a layer has too many inputs for its sums to stay below 2**24.
    """
    layers: list[Layer] = []
    exponent = _PIXEL_EXPONENT
    for layer in _layers_of_pixels(module, torch.from_numpy(digits).double() / LEVELS):
        rounded, exponent = _round(layer, exponent)
        layers.append(rounded)
    return ExactNetwork(tuple(layers), -exponent)


def _round(layer: _Affine, exponent: int) -> tuple[Layer, int]:
    """Round one layer whose inputs are integers times `2**-exponent`; return it and the exponent of its outputs."""
    if layer.activations is None:
        weight, bias, scales = _round_weights(layer, exponent, per_output=False)
        return Linear(weight, bias, None), int(scales[0]) + exponent
    output_exponent = _activation_exponent(layer.activations)
    weight, bias, scales = _round_weights(layer, exponent, output_exponent, per_output=True)
    shift = (scales + exponent - output_exponent).astype(np.uint8)
    if weight.ndim == 2:
        return Linear(weight, bias, shift), output_exponent
    return Convolution(weight, bias, shift, layer.stride, layer.padding, layer.pool, layer.pool_stride), output_exponent


def _round_weights(
    layer: _Affine, exponent: int, output_exponent: int | None = None, *, per_output: bool
) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.int64]]:
    """Round weights and biases; return them with the exponents of the weights, int64 `[outputs]`."""
    rows = layer.weight.reshape(len(layer.weight), -1)
    largest = np.abs(rows).max(axis=1) if per_output else np.full(len(rows), np.abs(rows).max())
    fitting = np.floor(np.log2(_LARGEST_WEIGHT / np.maximum(largest, np.finfo(np.float32).tiny))).astype(np.int64)
    least_error = np.full(len(rows), math.inf)
    best = (np.zeros_like(rows, np.int64), np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64))
    for candidate in _CANDIDATES:
        scales = fitting + candidate
        half: NDArray[np.int64] | int = 0
        if output_exponent is not None:
            least = output_exponent - exponent  # below it the shift would be negative
            scales = np.clip(scales, least, least + LARGEST_SHIFT)
            half = np.left_shift(1, scales - least) >> 1
        weight = np.clip(np.rint(np.ldexp(rows, scales[:, None])), -_LARGEST_WEIGHT, _LARGEST_WEIGHT)
        bias = np.clip(np.rint(np.ldexp(layer.bias, scales + exponent)), -LIMIT, LIMIT) + half
        error = np.square(np.ldexp(weight, -scales[:, None]) - rows).sum(axis=1)
        error[sum_bounds(weight.astype(np.int64), bias.astype(np.int64)) >= LIMIT] = math.inf
        if not per_output:
            error[:] = error.sum()
        better = error < least_error
        least_error = np.minimum(error, least_error)
        for kept, now in zip(best, (weight, bias, scales), strict=True):
            kept[better] = now[better]
    if not np.isfinite(least_error).all():
        raise InexactError(
            f"the layer {layer.name!r} cannot be made exact, because its sums may pass {LIMIT:,} however its weights "
            "are rounded; give it fewer inputs or smaller biases"
        )
    return best[0].reshape(layer.weight.shape).astype(np.int8), best[1].astype(np.int32), best[2]


def _activation_exponent(activations: NDArray[np.float64]) -> int:
    """Return the exponent of the least squared error of activations rounded and clipped at 255."""

    def error(exponent: int) -> float:
        rounded = np.clip(np.rint(np.ldexp(activations, exponent)), 0, TOP)
        return float(np.square(np.ldexp(rounded, -exponent) - activations).sum())

    largest = max(float(activations.max()), 2.0**-_PIXEL_EXPONENT)
    fitting = math.floor(math.log2(TOP / largest))
    return min(range(fitting, fitting + 5), key=error)


def _layers_of_pixels(module: nn.Module, pixels: Tensor) -> list[_Affine]:
    """See `_layers`, for a module that may stand behind a normalisation and a reshape."""
    if isinstance(module, Normalised):
        first, *others = _layers_of_pixels(module.module, module.of(pixels))
        return [_fold_normalisation(first, module), *others]
    if isinstance(module, Pictures):
        return _layers(module.module, pixels.reshape(module.shape))
    return _layers(module, pixels)


def _layers(module: nn.Module, pixels: Tensor) -> list[_Affine]:
    """Read the module as affine layers, each with the batch norm, ReLU and pooling that follow."""
    layers: list[_Affine] = []
    shape: tuple[int, ...] = (1, HEIGHT, WIDTH)
    steps = _steps(module, pixels)
    for step in steps:
        last = layers[-1] if layers else None
        match step.module:
            case nn.Linear() | nn.Conv2d():
                _check_affine(step, shape, last)
                layers.append(_affine(step))
                shape = tuple(step.after.shape[1:])
            case nn.BatchNorm1d() | nn.BatchNorm2d() if last and last.activations is None:
                layers[-1] = _fold(last, step)
            case nn.ReLU() if last:  # before or after the pooling, because both keep the order of numbers
                layers[-1] = replace(last, activations=_array(step.after))
            case nn.MaxPool2d() if last and last.pool == 1:
                _check_shape(step, shape)
                layers[-1] = _pool(last, step)
                shape = tuple(step.after.shape[1:])
            case nn.Dropout() | nn.Dropout1d() | nn.Dropout2d() | nn.Identity():
                pass
            case nn.LogSoftmax(dim=dim) if step is steps[-1] and dim in {1, -1}:
                pass
            case _ if _keeps_elements(step):
                pass
            case _:
                _refuse(step)
    if not layers or layers[-1].activations is not None or layers[-1].weight.ndim != 2:
        raise ExportError("an exact network ends in a linear layer without ReLU, and this module does not; add one")
    return layers


def _keeps_elements(step: _Step) -> bool:
    """Return True for a reshape, whose shape the next layer checks, and for a cast to float32, here float64."""
    return step.operation in _RESHAPES or (step.operation in _CASTS and step.after.dtype == step.before.dtype)


def _fold_normalisation(layer: _Affine, normalised: Normalised) -> _Affine:
    """Fold the normalisation into the first layer, which then takes the pixels as they are."""
    if layer.padding and normalised.offset:
        raise ExportError(
            f"the layer {layer.name!r} pads normalised pixels with 0, which is no pixel, and cannot be made exact; "
            "convolve without padding, or train with a mean of 0"
        )
    sums = layer.weight.reshape(len(layer.weight), -1).sum(axis=1)
    bias = layer.bias + sums * float(normalised.offset)
    return replace(layer, weight=layer.weight * float(normalised.scale), bias=bias)


def _affine(step: _Step) -> _Affine:
    module: Any = step.module
    bias = np.zeros(len(module.weight)) if module.bias is None else _array(module.bias)
    if isinstance(module, nn.Linear):
        return _Affine(step.name, _array(module.weight), bias, 1, 0)
    return _Affine(step.name, _array(module.weight), bias, module.stride[0], _padding(module)[0])


def _check_affine(step: _Step, shape: tuple[int, ...], before: _Affine | None) -> None:
    if before and before.activations is None:
        _refuse(step, f"after {before.name!r} without a ReLU between")
    module = step.module
    if isinstance(module, nn.Linear):
        _check_shape(step, (math.prod(shape),))
    elif isinstance(module, nn.Conv2d):
        _check_shape(step, shape)
        odd = {"groups": module.groups != 1, "dilation": module.dilation != (1, 1)}
        odd["padding_mode"] = module.padding_mode != "zeros"
        odd |= {"stride": not _is_square(module.stride), "padding": not _is_square(_padding(module))}
        for name in (name for name, is_odd in odd.items() if is_odd):
            _refuse(step, f"with {name}={getattr(module, name)!r}")


def _padding(convolution: Any) -> Any:
    """Return the rows and columns of zeros on every side, or "same" if the two sides of a dimension differ."""
    sides = convolution.kernel_size
    match convolution.padding:
        case "valid":
            return 0, 0
        case "same" if all(side % 2 for side in sides):
            return tuple(side // 2 for side in sides)
        case padding:
            return padding


def _fold(layer: _Affine, step: _Step) -> _Affine:
    """Fold a batch norm, which is affine in evaluation mode, into the layer before it."""
    norm: Any = step.module
    if norm.running_mean is None:
        _refuse(step, "without running statistics")
    gain = 1 / np.sqrt(_array(norm.running_var) + norm.eps) * (1 if norm.weight is None else _array(norm.weight))
    if layer.pool > 1 and not (gain > 0).all():  # because a negative gain would turn the largest into the smallest
        _refuse(step, f"of negative gains after the pooling of {layer.name!r}")
    offset = 0 if norm.bias is None else _array(norm.bias)
    weight = layer.weight * gain.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return replace(layer, weight=weight, bias=(layer.bias - _array(norm.running_mean)) * gain + offset)


def _pool(layer: _Affine, step: _Step) -> _Affine:
    module: Any = step.module
    sides = (module.kernel_size, module.stride)
    size, stride = ((side, side) if isinstance(side, int) else tuple(side) for side in sides)
    plain = module.padding in {0, (0, 0)} and module.dilation in {1, (1, 1)} and size[0] > 1
    if not plain or module.ceil_mode or module.return_indices or not _is_square(size) or not _is_square(stride):
        _refuse(step, f"with {module.extra_repr()}")
    return replace(layer, pool=size[0], pool_stride=stride[0])


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().numpy(), np.float64)


def _is_square(sides: object) -> bool:
    return isinstance(sides, tuple) and sides[0] == sides[1]


def _check_shape(step: _Step, shape: tuple[int, ...]) -> None:
    if tuple(step.before.shape[1:]) != shape:
        _refuse(step, f"of inputs {tuple(step.before.shape[1:])} where {shape} are computed")


def _refuse(step: _Step, why: str = "") -> NoReturn:
    kind = f"{step.operation} {why}".strip()
    raise ExportError(f"the layer {step.name!r} ({kind}) cannot be made exact; {_POSSIBLE}")


def _steps(module: nn.Module, pixels: Tensor) -> list[_Step]:
    """Run a float64 copy of the module on `pixels`, and return its operations in order."""
    whole = nn.Sequential(copy.deepcopy(module).double().eval())  # makes a lone layer a call, and omits optional inputs
    try:
        traced = fx.symbolic_trace(whole)
        traced.graph.eliminate_dead_code()
        recorder = _Recorder(traced)
        with torch.no_grad(), float64():
            recorder.run(pixels)
    except Exception as error:  # both run the module's own code
        raise ExportError(f"torch.fx cannot follow this module ({first_line(error)}); give layers in a row") from error
    for step in recorder.steps:
        if not step.in_a_row:
            _refuse(step, "of more than the layer before it")
    return recorder.steps


class _Recorder(fx.Interpreter):
    """An interpreter of a traced module that records each operation on the digits."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.steps: list[_Step] = []
        self._last: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "placeholder":
            self._last = n
        elif n.op in {"call_module", "call_function", "call_method"} and isinstance(value, Tensor):
            inputs = [node for node in n.all_input_nodes if isinstance(self.env[node], Tensor)]
            before = self.env[inputs[0]] if inputs else value
            self.steps.append(self._step(n, before, value, in_a_row=inputs == [self._last]))
            self._last = n
        return value

    def _step(self, node: fx.Node, before: Tensor, after: Tensor, *, in_a_row: bool) -> _Step:
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            name = str(node.target).removeprefix("0.")  # of the nn.Sequential around the module
            return _Step(name, type(module).__name__, module, before, after, in_a_row)
        args, options = self.fetch_args_kwargs_from_env(node)
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return _Step(node.name, function, _as_module(function, args[1:], options), before, after, in_a_row)


def _as_module(function: str, args: Sequence[Any], options: Mapping[str, Any]) -> nn.Module | None:
    """Return the module that does the same as a function; torch.fx passes arguments by their names in `F`."""
    match function, args, options:
        case (("relu" | "relu_"), _, _):
            return nn.ReLU()
        case (("dropout" | "dropout1d" | "dropout2d"), _, {"training": False}):
            return nn.Identity()
        case "log_softmax", _, {"dim": dim} if options.get("dtype") is None:
            return nn.LogSoftmax(dim)
        case "log_softmax", [dim], _:
            return nn.LogSoftmax(dim)
        case "max_pool2d", _, _:
            named = {**dict(zip(_POOLING, args, strict=False)), **options}
            return nn.MaxPool2d(**{name: value for name, value in named.items() if name != "input"})
    return None
