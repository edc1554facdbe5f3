"""The digits an artifact is held against, and what the trained module says of them in float64."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_export.bounds import derived_reference, linear_reference
from mnist_export.errors import ExportError
from mnist_runtime.digits import CLASSES, LEVELS, PIXELS, Intensities, as_intensities
from mnist_runtime.model.comparison import Reference
from mnist_train.data.bundled import Split
from mnist_train.models import MNISTLogistic

GOLDEN, SINGLE, VALIDATION = "golden digits", "single pixels", "validation digits"
"""The sets of digits."""

_DIGITS_A_CLASS = 2
_BATCH = 10_000

Sets = dict[str, Intensities]
"""uint8 `[N, 784]` by the set's name."""


@dataclass(frozen=True)
class Expected:
    """What an artifact must compute, and what its module makes of the validation digits."""

    sets: Mapping[str, Reference]
    """By the name of the set."""
    bound: str
    """Where the tolerances come from: "exact" (none), "analytic", "derived" or "quantization" (see `bounds`)."""
    labels: NDArray[np.uint8]
    """Of the validation digits, `[N]`: what they are."""
    logits: NDArray[np.float32]
    """Of the validation digits, `[N, 10]`: what the module computes in float32."""


def digit_sets(validation: Split) -> Sets:
    """The three sets that every artifact is held against."""
    return {
        GOLDEN: golden_digits(validation),
        SINGLE: single_pixels(),
        VALIDATION: as_intensities(validation.images.reshape(-1, PIXELS)),
    }


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


def expect(module: nn.Module, validation: Split) -> Expected:
    """What `module`, in evaluation mode, says of the three sets, and how far float32 may be from it.

    The bound is analytic for the linear model, and derived from float32 and float64 runs for any other.

    Raises:
        ExportError: the module cannot be run, or computes something other than finite logits `[N, 10]`.
    """
    sets = digit_sets(validation)
    digits = np.concatenate(list(sets.values()))
    in_float32 = _run(module, digits, torch.float32)
    if isinstance(module, MNISTLogistic):
        weight, bias = module.lin.weight.detach().numpy(), module.lin.bias.detach().numpy()
        bound, whole = "analytic", linear_reference(digits, weight, bias)
    else:
        in_float64 = _run(copy.deepcopy(module).double(), digits, torch.float64)
        bound, whole = "derived", derived_reference(digits, in_float64, in_float32)
    return Expected(split_sets(whole, sets), bound, validation.labels, in_float32[-len(validation) :])


def split_sets(whole: Reference, sets: Sets) -> dict[str, Reference]:
    """Cut the reference of all digits together into that of each set."""
    ends = list(itertools.accumulate(map(len, sets.values())))
    return {name: whole[end - len(sets[name]) : end] for name, end in zip(sets, ends, strict=True)}


@torch.no_grad()
def _run(module: nn.Module, digits: Intensities, dtype: torch.dtype) -> NDArray[Any]:
    pixels = torch.from_numpy(digits)
    batches = (pixels[start : start + _BATCH].to(dtype) / LEVELS for start in range(0, len(digits), _BATCH))
    try:
        logits: NDArray[Any] = torch.cat([module(batch) for batch in batches]).numpy()
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"the module cannot be run on pixels {dtype} [N, {PIXELS}] ({reason})") from error
    if logits.shape != (len(digits), len(CLASSES)) or not np.isfinite(logits).all():
        raise ExportError(
            f"the module makes {logits.shape} of {len(digits):,} digits, {np.count_nonzero(~np.isfinite(logits)):,} "
            f"values of them not finite; it should make finite logits [N, {len(CLASSES)}]"
        )
    return logits
