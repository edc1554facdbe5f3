"""Bounds that hold in any order of summation, and certified labels."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_export.bounds.references import analytic_reference, derived_reference
from mnist_export.bounds.walk import walk
from mnist_export.onnx import trace
from mnist_runtime.model.comparison import UNIT_ROUNDOFF, Reference, compare

RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((10, 784)) / 28).astype(np.float32)
BIAS = RNG.standard_normal(10).astype(np.float32)


@pytest.fixture(scope="module")
def digits(test_split) -> NDArray[np.uint8]:
    return test_split.images[:1000].reshape(-1, 784)


def linear_reference(digits, weight, bias) -> Reference:
    """Return the reference of one linear layer."""
    module = nn.Linear(784, 10)
    module.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    walked = walk(trace(module)[0], digits)
    return analytic_reference(digits, walked, walked.logits)


@pytest.fixture(scope="module")
def reference(digits) -> Reference:
    return linear_reference(digits, WEIGHT, BIAS)


def in_float32(digits, order=slice(None)) -> NDArray[np.float32]:
    """Return x @ W + b, summed in float32 one product after the other, in a given order of the pixels."""
    x = (digits / np.float32(256)).astype(np.float32)[:, order]
    logits = np.tile(BIAS, (len(digits), 1))
    for column, weights in zip(x.T, WEIGHT.T[order], strict=True):
        logits += column[:, None] * weights
    return logits


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), RNG.permutation(784)], ids=["up", "down", "any"])
def test_any_order_of_summation_is_within_the_bound(reference, digits, order):
    comparison = compare("digits", reference, in_float32(digits, order))
    assert comparison.passed
    assert 0 < comparison.worst_share < 1
    assert comparison.agreeing >= comparison.certified > 900


def test_the_reference_is_the_product_in_float64(reference, digits):
    expected = digits / 256.0 @ WEIGHT.T.astype(np.float64) + BIAS
    np.testing.assert_allclose(reference.logits, expected, rtol=1e-12, atol=1e-13)


def test_the_bound_of_one_lit_pixel_is_two_roundings_by_hand():
    digit = np.zeros((1, 784), np.uint8)
    digit[0, 300] = 255
    bound = linear_reference(digit, WEIGHT, BIAS).tolerance[0]
    magnitude = np.abs(WEIGHT[:, 300].astype(np.float64)) * 255 / 256 + np.abs(BIAS.astype(np.float64))
    by_hand = 2 * UNIT_ROUNDOFF * magnitude
    assert (bound >= by_hand).all()
    np.testing.assert_allclose(bound, by_hand, rtol=2e-4)


def test_a_digit_without_a_clear_winner_is_not_certified():
    weight, bias = np.zeros((10, 784), np.float32), np.zeros(10, np.float32)
    bias[[3, 5]] = 1, np.nextafter(np.float32(1), np.float32(2))
    digit = np.full((1, 784), 255, np.uint8)
    assert not linear_reference(digit, weight, bias).certified[0]
    bias[5] = 1.001
    assert linear_reference(digit, weight, bias).certified[0]


def test_a_derived_tolerance_is_eight_times_what_was_seen_and_certifies_nothing(reference, digits):
    logits32 = in_float32(digits)
    derived = derived_reference(digits, reference.logits, logits32)
    np.testing.assert_allclose(derived.tolerance, 8 * np.abs(logits32 - reference.logits).max())
    assert not derived.certified.any()
    assert compare("digits", derived, logits32).worst_share == pytest.approx(1 / 8)
