"""Comparison of logits, which fails on every difference beyond rounding."""

import base64
import io

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_runtime.model.comparison import Reference, compare, softmax

RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((10, 784)) / 28).astype(np.float32)
BIAS = RNG.standard_normal(10).astype(np.float32)


@pytest.fixture(scope="module")
def digits(test_split) -> NDArray[np.uint8]:
    return test_split.images[:1000].reshape(-1, 784)


@pytest.fixture(scope="module")
def reference(digits) -> Reference:
    logits = digits / 256.0 @ WEIGHT.T.astype(np.float64) + BIAS
    return Reference(digits, logits, np.full_like(logits, 1e-4), np.zeros(len(digits), np.bool_))


def in_float32(digits) -> NDArray[np.float32]:
    return (digits / np.float32(256)).astype(np.float32) @ WEIGHT.T + BIAS


def test_an_error_just_over_the_bound_fails_and_is_named(reference, digits):
    logits = in_float32(digits)
    logits[7, 3] = reference.logits[7, 3] + 1.5 * reference.tolerance[7, 3]
    comparison = compare("digits", reference, logits)
    assert not comparison.passed
    assert comparison.worst_share > 1
    assert "class 3 for digit 7" in comparison.failures[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_fail(reference, digits, value):
    logits = in_float32(digits)
    logits[42, 0] = value
    comparison = compare("digits", reference, logits)
    assert not comparison.passed
    assert "first at digit 42" in comparison.failures[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda logits: logits[:-1],
        lambda logits: logits[:1],
        lambda logits: logits[:, :1],
        lambda logits: logits[None],
        lambda logits: logits.astype(np.float64),
        lambda logits: logits.astype(np.float16),
    ],
)
def test_nothing_broadcasts_and_no_dtype_is_converted(reference, digits, damage):
    comparison = compare("digits", reference, damage(in_float32(digits)))
    assert not comparison.passed
    assert "not float32 (1000, 10)" in comparison.failures[0]


def test_probabilities_are_compared_with_the_softmax_of_the_logits(reference, digits):
    logits = in_float32(digits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    assert compare("digits", reference, logits, probabilities).passed
    probabilities[5] *= np.float32(1.001)
    comparison = compare("digits", reference, logits, probabilities)
    assert "the probability of class" in comparison.failures[0]
    assert not compare("digits", reference, logits, np.zeros_like(logits)).passed
    assert not compare("digits", reference, logits, probabilities[:3]).passed


def test_an_exact_answer_where_no_error_is_allowed_passes():
    digit = np.zeros((1, 784), np.uint8)
    reference = Reference(digit, np.zeros((1, 10)), np.zeros((1, 10)), np.ones(1, np.bool_))
    assert compare("black", reference, np.zeros((1, 10), np.float32)).worst_share == 0


def test_no_digits_pass_with_no_error(reference):
    empty = compare("none", reference[:0], np.empty((0, 10), np.float32), np.empty((0, 10), np.float32))
    assert empty.passed
    assert (empty.count, empty.worst_error) == (0, 0)


def test_a_reference_survives_packing(reference):
    text = reference[:20].to_text()
    again = Reference.from_text(text)
    assert again.to_text() == text == reference[:20].to_text()
    assert np.array_equal(again.digits, reference.digits[:20])
    assert np.array_equal(again.labels, reference.labels[:20])


def npy_of_one_number() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, 1.0)
    return buffer.getvalue()


def packed(**arrays) -> str:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_packed_bomb_is_refused_before_it_is_unpacked():
    with pytest.raises(ValueError, match="more than 64 MiB"):
        Reference.from_text(packed(digits=np.zeros(2**26, np.uint8)))


@pytest.mark.parametrize(
    "change",
    [
        {"logits": np.zeros((3, 9))},
        {"logits": np.full((3, 10), np.nan)},
        {"tolerance": np.zeros((3, 10), np.float32)},
        {"digits": np.zeros((3, 28, 28), np.uint8)},
        {"certified": np.zeros(2, np.bool_)},
        {"digits": np.zeros((0, 784), np.uint8)},
    ],
)
def test_a_packed_reference_of_wrong_arrays_is_refused(change):
    right = {
        "digits": np.zeros((3, 784), np.uint8),
        "logits": np.zeros((3, 10)),
        "tolerance": np.ones((3, 10)),
        "certified": np.ones(3, np.bool_),
    }
    assert len(Reference.from_text(packed(**right))) == 3
    with pytest.raises(ValueError, match=r"are|none"):
        Reference.from_text(packed(**{**right, **change}))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and no more", npy_of_one_number()])
def test_other_bytes_are_refused_as_a_packed_reference(content):
    with pytest.raises(ValueError, match="not a packed reference"):
        Reference.from_text(base64.b64encode(content).decode())


def test_softmax_of_large_logits_does_not_overflow():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0]])), [[0.5, 0.5]])
