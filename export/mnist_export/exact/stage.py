"""Stages: the layers of an exact network as programs compute them, and the checksums of their self-test."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_export.exact.network import Convolution, ExactNetwork, Layer, Shape
from mnist_runtime.digits import Intensities

HASH_START, HASH_FACTOR = 2166136261, 16777619  # FNV-1a, 32 bits: http://www.isthe.com/chongo/tech/comp/fnv/
"""Constants of the checksum."""

_LONGEST_RUN = 255  # zeros, in packed digits


@dataclass(frozen=True)
class Stage:
    """One layer as a program computes it: channels last, because each window is then one piece of memory."""

    number: int
    """Number of the layer, from 1."""
    layer: Layer
    """Layer of the network."""
    inputs: Shape
    """Shape of the activations that the layer reads."""
    outputs: Shape
    """Shape of the activations that the layer writes."""

    @property
    def weight(self) -> NDArray[np.int8]:
        """Weights, int8 `[outputs, rows, columns, channels]`; the window of a linear layer is the whole input."""
        window = self.layer.weight.shape[2:] if isinstance(self.layer, Convolution) else self.inputs[1:]
        kernels = self.layer.weight.reshape(self.layer.weight.shape[0], self.inputs[0], *window)
        return np.ascontiguousarray(kernels.transpose(0, 2, 3, 1))

    @property
    def size(self) -> int:
        """Bytes of the activations that the layer writes; none in the last layer."""
        return 0 if self.layer.shift is None else math.prod(self.outputs)

    @property
    def description(self) -> str:
        """Kind of the layer with its shapes, in one line."""
        layer, shape = self.layer, self.inputs
        if not isinstance(layer, Convolution):
            return f"linear, {math.prod(shape)} to {self.outputs[0]}"
        rows, columns = layer.weight.shape[2:]
        kind = f"convolution {rows}x{columns}"
        kind += f", stride {layer.stride}" if layer.stride > 1 else ""
        kind += f", padding {layer.padding}" if layer.padding else ""
        if layer.pool > 1:
            kind += f", then the largest of each {layer.pool}x{layer.pool}"
        return f"{kind}: {_sides(shape)} to {_sides(self.outputs)}"

    @property
    def checksum(self) -> int:
        """Checksum of the layer's weights, biases and shifts, in this order."""
        hash_ = fnv1a(self.layer.bias, fnv1a(self.weight.view(np.uint8)))
        return hash_ if self.layer.shift is None else fnv1a(self.layer.shift, hash_)


def stages(network: ExactNetwork) -> list[Stage]:
    """Return the stages of `network` in order."""
    shapes = network.shapes()
    return [Stage(i + 1, layer, shapes[i], shapes[i + 1]) for i, layer in enumerate(network.layers)]


def golden_checksums(network: ExactNetwork, golden: Intensities) -> list[list[int]]:
    """Return, for each digit, the checksums of its pixels and of each layer's outputs, channels last."""
    outputs = [values.transpose(0, 2, 3, 1) for values in network.activations(golden)]
    return [[fnv1a(values[digit]) for values in outputs] for digit in range(len(golden))]


def fnv1a(values: NDArray[np.integer[Any]], start: int = HASH_START) -> int:
    """Return the FNV-1a hash of integers of up to 32 bits; a change of any one integer changes the hash."""
    for value in values.ravel().tolist():
        start = ((start ^ (value & 0xFFFFFFFF)) * HASH_FACTOR) & 0xFFFFFFFF
    return start


def pack(digits: Intensities) -> bytes:
    """Replace each run of zeros in a digit, up to 255 of them, by a 0 and its length."""
    packed = bytearray()
    for digit in digits.tolist():
        for ink, run in itertools.groupby(digit):
            n = len(list(run))
            zeros = (bytes([0, min(n - i, _LONGEST_RUN)]) for i in range(0, n, _LONGEST_RUN))
            packed += bytes([ink] * n) if ink else b"".join(zeros)
    return bytes(packed)


def _sides(shape: Shape) -> str:
    channels, rows, columns = shape
    return f"{rows}x{columns}x{channels}"
