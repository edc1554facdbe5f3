"""The digits an artifact is held against, and what the trained module says of them in float64."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_runtime.digits import CLASSES, LEVELS, PIXELS, Intensities
from mnist_runtime.parity import Reference, derived_reference, linear_reference
from mnist_train.data import Split
from mnist_train.models import MNISTLogistic

_DIGITS_A_CLASS = 2
_BATCH = 10_000


def golden_digits(split: Split) -> Intensities:
    """The digits that travel in an artifact: uint8 `[23, 784]`.

    The first two of every class, then the edges of the input: all black, all white, one lit pixel.
    """
    chosen = [np.flatnonzero(split.labels == label)[:_DIGITS_A_CLASS] for label in CLASSES]
    real = split.images[np.concatenate(chosen)].reshape(-1, PIXELS)
    edges = np.zeros((3, PIXELS), dtype=np.uint8)
    edges[1] = 255
    edges[2, PIXELS // 2 + 14] = 255  # the middle of the picture
    return np.concatenate([real, edges])


def single_pixels() -> Intensities:
    """784 digits, each with one lit pixel: with two terms to add, a logit has next to no rounding to hide behind."""
    return np.diag(np.full(PIXELS, 255, dtype=np.uint8))


def reference(module: nn.Module, digits: Intensities) -> Reference:
    """What `module` says of `digits`, uint8 `[N, 784]`, and how far float32 may be from it.

    The bound is analytic for the linear model, and derived from float32 and float64 runs for any other.
    """
    if isinstance(module, MNISTLogistic):
        weight, bias = module.lin.weight.detach().numpy(), module.lin.bias.detach().numpy()
        return linear_reference(digits, weight, bias)
    in_float32 = _run(module, digits, torch.float32)
    in_float64 = _run(copy.deepcopy(module).double(), digits, torch.float64)
    return derived_reference(digits, in_float64, in_float32)


@torch.no_grad()
def _run(module: nn.Module, digits: Intensities, dtype: torch.dtype) -> NDArray[Any]:
    pixels = torch.from_numpy(digits)
    batches = (pixels[start : start + _BATCH].to(dtype) / LEVELS for start in range(0, len(digits), _BATCH))
    return torch.cat([module(batch) for batch in batches]).numpy()
