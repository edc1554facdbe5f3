"""The input contract: digits are accepted in every documented form, and everything else is refused with advice."""

import numpy as np
import pytest
from scipy import ndimage, sparse

from mnist_runtime import Classifier
from mnist_runtime.digits import as_digits, as_intensities, as_pixels, inverted, suspicion, transposed
from mnist_runtime.errors import DigitError


@pytest.mark.parametrize(
    "shape", [(784,), (28, 28), (28, 28, 1), (1, 784), (1, 28, 28), (1, 1, 28, 28), (1, 28, 28, 1)]
)
def test_one_digit_in_any_shape_is_a_batch_of_one(test_split, shape):
    batch = as_digits(test_split.images[0].reshape(shape))
    assert batch.shape == (1, 784)
    assert np.array_equal(batch[0], test_split.images[0].ravel())


@pytest.mark.parametrize("shape", [(0, 784), (0, 28, 28), (0, 1, 28, 28)])
@pytest.mark.parametrize(("given", "kept"), [("uint8", "uint8"), ("float64", "float32"), ("int64", "uint8")])
def test_no_digits_are_a_valid_batch(shape, given, kept):
    batch = as_digits(np.empty(shape, given))
    assert batch.shape == (0, 784)
    assert batch.dtype == kept


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", ">i4", "int64", "uint64"])
def test_integers_within_0_to_255_become_uint8(test_split, dtype):
    digits = test_split.images[:5] // 2  # fits int8 too
    batch = as_digits(digits.astype(dtype))
    assert batch.dtype == np.uint8
    assert np.array_equal(batch, digits.reshape(5, 784))


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64", "longdouble"])
def test_floats_within_0_to_1_become_float32(test_split, dtype):
    pixels = test_split.images[:5].astype(dtype) / np.dtype(dtype).type(256)
    batch = as_digits(pixels)
    assert batch.dtype == np.float32
    assert np.array_equal(batch, test_split.images[:5].reshape(5, 784) / np.float32(256))


def test_uint8_and_float32_are_not_copied(test_split):
    pixels = as_pixels(as_digits(test_split.images))
    assert np.shares_memory(as_digits(test_split.images), test_split.images)
    assert np.shares_memory(as_digits(pixels), pixels)


def test_nested_lists_are_digits_too(test_split):
    assert np.array_equal(as_digits(test_split.images[3].tolist()), test_split.images[3].reshape(1, 784))


@pytest.mark.parametrize("shape", [(), (783,), (1, 28), (32, 32), (2, 3, 28, 28), (1, 1, 1, 28, 28)])
def test_other_shapes_are_refused_with_the_shape_and_the_wanted_ones(shape):
    with pytest.raises(DigitError) as refusal:
        as_digits(np.zeros(shape, np.uint8))
    assert str(shape) in str(refusal.value)
    assert "(N, 28, 28)" in str(refusal.value)


@pytest.mark.parametrize("dtype", ["complex64", "object", "U1", "datetime64[s]"])
def test_other_dtypes_are_refused_with_the_conversion(dtype):
    with pytest.raises(DigitError, match="astype"):
        as_digits(np.zeros((28, 28), dtype))


@pytest.mark.parametrize(
    ("value", "dtype", "sentence"),
    [
        (256, "int64", "reach from 0 to 256"),
        (-1, "int8", "reach from -1 to 0"),
        (1e3, "float32", "divide 0-255 intensities by 256"),
        (-0.5, "float64", "reach -0.5"),
        (np.inf, "float32", "infinity"),
        (-np.inf, "float32", "infinity"),
        (np.nan, "float64", "NaN"),
        (1.0000001, "float64", "from 0 to 1.0000001;"),
    ],
)
def test_one_pixel_out_of_range_is_refused(value, dtype, sentence):
    digits = np.zeros((3, 784), dtype)
    digits[1, 300] = value
    with pytest.raises(DigitError, match=sentence):
        as_digits(digits)


@pytest.mark.parametrize("nonsense", [[[1, 2], [3]], "seven", None, {"a": 1}, [2**70] * 784])
def test_other_objects_are_refused(nonsense):
    with pytest.raises(DigitError):
        as_digits(nonsense)


def test_all_256_intensities_survive_the_way_to_pixels_and_back():
    every = np.arange(784, dtype=np.uint8).reshape(1, 784)
    pixels = as_pixels(every)
    assert pixels.max() == 0.99609375
    assert np.array_equal(as_intensities(pixels), every)


@pytest.mark.parametrize(
    ("value", "intensity"), [(1.0, 255), (0.5 + 2**-20, 128), (1e-9, 0), (100 / 255, 100), (200 / 255, 201)]
)
def test_other_floats_become_the_nearest_intensity(value, intensity):
    assert (as_intensities(np.full((2, 784), value, np.float32)) == intensity).all()


def follow(advice: str, x: np.ndarray) -> np.ndarray:
    """Evaluate the expression that an error advises."""
    return eval(advice, {"np": np, "x": x})


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (lambda x: np.insert(x.reshape(-1, 784), 0, 7, axis=1), "x[:, 1:]"),
        (lambda x: np.insert(x.reshape(-1, 784), 784, 7, axis=1), "x[:, :-1]"),
        (lambda x: x.reshape(-1, 784).T, "x.T"),
        (lambda x: x.transpose(1, 2, 0), "x.transpose(2, 0, 1)"),
        (lambda x: (x / 255 - 0.1307) / 0.3081, "np.clip(x * 0.3081 + 0.1307, 0, 1)"),
        (lambda x: np.float32(x / 255 - 0.1307) / np.float32(0.3081), "np.clip(x * 0.3081 + 0.1307, 0, 1)"),
        (lambda x: np.float32(x / 255 - 0.5) / np.float32(0.5), "(x + 1) / 2"),
        (lambda x: np.ma.masked_equal(x, 0), "x.filled(0)"),
        (lambda x: sparse.csr_matrix(x.reshape(-1, 784)), "x.toarray()"),
        (lambda x: x.reshape(-1, 1, 784), "x.reshape(300, 784)"),
        (lambda x: ndimage.rotate(x.reshape(-1, 28, 28) / 255, 3, axes=(1, 2), reshape=False), "np.clip(x, 0, 1)"),
        (lambda x: x / 255 * 1.0000002, "np.clip(x, 0, 1)"),
    ],
)
def test_the_advice_followed_to_the_letter_gives_the_right_labels(test_split, wrong, advice):
    x, labels = wrong(test_split.images[:300]), Classifier().predict(test_split.images[:300])
    with pytest.raises(DigitError) as refusal:
        as_digits(x)
    assert advice in str(refusal.value)
    assert np.mean(Classifier().predict(follow(advice, x)) == labels) > 0.99


def test_a_masked_array_with_nothing_masked_is_an_array(test_split):
    assert np.array_equal(as_digits(np.ma.array(test_split.images[:2])), test_split.images[:2].reshape(2, 784))


def test_a_tensor_that_requires_grad_is_refused_with_advice():
    class RequiresGrad:
        def __array__(self, *_, **__):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.\nUse tensor.detach().numpy() instead.")

    with pytest.raises(DigitError, match=r"requires grad\. Give x\.detach\(\)\.cpu\(\)\.numpy\(\)"):
        as_digits(RequiresGrad())


def test_true_is_ink(test_split):
    ink = test_split.images[:100] > 127
    assert np.array_equal(as_digits(ink), np.where(ink, 255, 0).reshape(100, 784))
    assert as_digits(ink).dtype == np.uint8


def test_nearly_black_and_inverted_digits_are_suspicious(test_split):
    images = test_split.images[:300].reshape(-1, 784)
    assert suspicion(images) is suspicion(as_pixels(images)) is suspicion(images[:0]) is suspicion(images * 0) is None
    assert "nearly blank" in suspicion((images / 255).astype(np.uint8))
    assert "nearly blank" in suspicion((images > 127).astype(np.uint8))
    assert suspicion(as_digits(images > 127)) is None
    for digits in (images, as_pixels(images)):
        assert "rims of the digits are bright" in suspicion(inverted(digits))


def test_inverting_and_transposing_twice_gives_the_digits_back(test_split):
    images = test_split.images[:10].reshape(-1, 784)
    for digits in (images, as_pixels(images)):
        for turn in (inverted, transposed):
            assert np.array_equal(turn(turn(digits)), digits)
            assert turn(digits).dtype == digits.dtype
    assert np.array_equal(transposed(images)[3].reshape(28, 28), test_split.images[3].T)
