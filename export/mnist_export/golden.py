"""The digits that an artifact is tested on, and the references for them."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from mnist_export.bounds.references import analytic_reference, derived_reference
from mnist_export.bounds.rules import NoRuleError
from mnist_export.bounds.walk import walk
from mnist_export.errors import ExportError
from mnist_export.network import logits_in_float32, logits_in_float64
from mnist_export.risk import choose_thresholds
from mnist_runtime.digits import CLASSES, PIXELS, Intensities, as_intensities
from mnist_runtime.model.comparison import Reference
from mnist_runtime.verdicts import Thresholds
from mnist_train.data.bundled import Split

GOLDEN, SINGLE, VALIDATION = "golden digits", "single pixels", "validation digits"
"""Names of the sets of digits."""

_DIGITS_PER_CLASS = 2

Sets = dict[str, Intensities]
"""Digits uint8 `[N, 784]` by the name of their set."""


@dataclass(frozen=True)
class Proof:
    """The origin of a reference and of its tolerances."""

    bound: str
    """Origin of the tolerances: "exact", "analytic" or "derived" (see `bounds`)."""
    reference: str
    """Origin of the logits: "module" in float64, or "graph", evaluated in float64."""
    obstacle: str = ""
    """Operator, or other reason, that prevents an analytic bound."""


@dataclass(frozen=True)
class Expected:
    """The logits that an artifact must compute, and the module's own answers to the validation digits."""

    sets: Mapping[str, Reference]
    """References by the name of their set."""
    proof: Proof
    """Origin of the references."""
    labels: NDArray[np.uint8]
    """True labels of the validation digits, `[N]`."""
    thresholds: Thresholds
    """Thresholds of the verdicts, chosen on the validation digits."""
    logits: NDArray[np.float32]
    """Logits of the module in float32 for the validation digits, `[N, 10]` or `[N, 11]`."""
    margin: float = math.inf
    """Largest error that the gate allows any logit on this machine, even if its tolerance is larger: 8 times the
    largest difference of the module in float32 from its reference. Analytic bounds of deep networks are loose, and
    would otherwise hide a changed weight."""


def digit_sets(validation: Split) -> Sets:
    """Return the three sets that every artifact is tested on."""
    return {
        GOLDEN: golden_digits(validation),
        SINGLE: single_pixels(),
        VALIDATION: as_intensities(validation.images.reshape(-1, PIXELS)),
    }


def golden_digits(split: Split) -> Intensities:
    """Return the digits that travel in an artifact: uint8 `[23, 784]`.

    The first two of every class, then the edges of the input: all black, all white, one lit pixel.
    """
    chosen = [np.flatnonzero(split.labels == label)[:_DIGITS_PER_CLASS] for label in CLASSES]
    real = split.images[np.concatenate(chosen)].reshape(-1, PIXELS)
    edges = np.zeros((3, PIXELS), dtype=np.uint8)
    edges[1] = 255
    edges[2, PIXELS // 2 + 14] = 255  # the middle of the picture
    return np.concatenate([real, edges])


def single_pixels() -> Intensities:
    """Return 784 digits, each with one lit pixel: a logit of two terms leaves rounding hardly any room."""
    return np.diag(np.full(PIXELS, 255, dtype=np.uint8))


def expect(module: nn.Module, validation: Split, graph: Callable[[], ModelProto]) -> Expected:
    """Return the logits of `module`, in evaluation mode, for the three sets, and bounds on the errors of float32.

    The bounds are analytic if every operator of the graph has a rule; otherwise they are derived from runs in float32
    and float64.

    Args:
        module: Module that takes pixels float32 `[N, 784]`.
        validation: Digits to answer.
        graph: Traces the module into an ONNX graph, not optimised; may raise ExportError.

    Raises:
        ExportError: the module cannot be run, is no function of a digit, or computes no finite logits.
    """
    sets = digit_sets(validation)
    digits = np.concatenate(list(sets.values()))
    in_float32 = logits_in_float32(module, digits)
    in_float64 = logits_in_float64(module, digits)
    try:
        walked = walk(graph(), digits)
    except (NoRuleError, ExportError) as error:
        if in_float64 is None:
            raise ExportError(
                f"the module runs in float32 only, and its graph cannot be evaluated in float64 instead ({error}); "
                "let the module run in float64, too"
            ) from error
        whole = derived_reference(digits, in_float64, in_float32)
        margin = math.inf
        proof = Proof("derived", "module", str(error))
    else:
        whole = analytic_reference(digits, walked, walked.logits if in_float64 is None else in_float64)
        proof = Proof("analytic", "graph" if in_float64 is None else "module")
        margin = float(derived_reference(digits, whole.logits, in_float32).tolerance.max())
        if in_float64 is None and (np.abs(in_float32 - walked.logits) > walked.probable).any():
            raise ExportError(
                "PyTorch's ONNX exporter changed what the module computes, by more than rounding; "
                "let the module run in float64 to see where"
            )
    references = split_sets(whole, sets)
    thresholds = choose_thresholds(references[VALIDATION].logits, validation.labels)
    return Expected(references, proof, validation.labels, thresholds, in_float32[-len(validation) :], margin)


def split_sets(whole: Reference, sets: Sets) -> dict[str, Reference]:
    """Cut the reference of all digits together into one per set."""
    ends = list(itertools.accumulate(map(len, sets.values())))
    return {name: whole[end - len(sets[name]) : end] for name, end in zip(sets, ends, strict=True)}
