"""The classifier that other programs embed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_runtime import Classifier, DigitError, FileMissingError, Prediction
from mnist_runtime.digits import as_digits
from mnist_runtime.model.comparison import softmax
from mnist_runtime.verdicts import VERDICTS


@pytest.fixture(scope="module", params=["cnn", "linear"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """Each of the bundled models."""
    return Classifier(request.param)


@pytest.fixture(scope="module")
def uint8_classifier(exported) -> Classifier:
    return Classifier(exported / "mnist.uint8.onnx")


@pytest.mark.parametrize(("name", "least"), [("cnn", 0.993), ("linear", 0.9134)])
def test_the_bundled_models_recognise_unseen_digits(name, least, test_split):
    accuracy = (Classifier(name).predict(test_split.images) == test_split.labels).mean()
    assert least <= accuracy < least + 0.006


def test_the_exact_network_is_the_default(test_split):
    classifier = Classifier()
    assert classifier.digests == Classifier("cnn").digests
    assert not classifier.artifact.golden.tolerance.any()
    with pytest.raises(FileMissingError, match="resnet"):
        Classifier("resnet")
    by_255 = test_split.images[:100] / np.float32(255)
    assert np.array_equal(
        classifier.decision_function(by_255),
        classifier.decision_function(np.minimum(np.rint(by_255 * 256), 255).astype(np.uint8)),
    )


def test_the_outputs_have_scikit_learns_shapes_and_dtypes(classifier, test_split):
    some = test_split.images[:5]
    assert classifier.decision_function(some).shape == classifier.predict_proba(some).shape == (5, 10)
    assert classifier.decision_function(some).dtype == classifier.predict_proba(some).dtype == np.float32
    assert classifier.predict(some).shape == (5,)
    assert classifier.predict(some).dtype == classifier.classes_.dtype == np.int64
    assert classifier.classes_.tolist() == list(range(10))


def test_probabilities_are_the_softmax_of_the_logits(classifier, test_split):
    digits = test_split.images[:2000]
    logits = classifier.decision_function(digits).astype(np.float64)
    probabilities = classifier.predict_proba(digits)
    np.testing.assert_allclose(probabilities, softmax(logits), rtol=1e-5, atol=2**-126)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_compute_gives_logits_probabilities_and_labels_of_checked_digits(classifier, test_split, count):
    computed = classifier.compute(as_digits(test_split.images[:count]))
    assert len(computed) == count
    np.testing.assert_array_equal(computed.logits, classifier.decision_function(test_split.images[:count]))
    np.testing.assert_array_equal(computed.probabilities, classifier.predict_proba(test_split.images[:count]))
    np.testing.assert_array_equal(computed.labels, classifier.predict(test_split.images[:count]))
    np.testing.assert_array_equal(computed[1:4].logits, computed.logits[1:4])
    np.testing.assert_array_equal(computed[1:4].probabilities, computed.probabilities[1:4])
    np.testing.assert_array_equal(computed[1:4].verdicts, computed.verdicts[1:4])
    assert computed.no_digit.shape == computed.verdicts.shape == (count,)


def test_the_golden_digits_of_all_graphs_are_replayed():
    comparisons = [*Classifier("cnn").replay(), *Classifier("linear").replay()]
    assert [(found.name, found.passed) for found in comparisons] == [
        ("the bundled mnist-cnn.exact.onnx", True),
        ("the bundled mnist-linear.onnx", True),
        ("the bundled mnist-linear.uint8.onnx", True),
    ]


def test_classify_returns_label_probabilities_and_verdict(classifier, test_split):
    prediction = classifier.classify(test_split.images[0])
    row = classifier.predict_proba(test_split.images[0])[0]
    outputs = classifier.compute(as_digits(test_split.images[0]))
    verdict = VERDICTS[outputs.verdicts[0]]
    assert prediction == Prediction(7, float(row[7]), tuple(row.tolist()), float(outputs.no_digit[0]), verdict)


def test_read_answers_alike_for_a_path_its_bytes_and_a_pillow_image(classifier, test_split, tmp_path):
    sheet = Image.fromarray(255 - np.pad(test_split.images[0].reshape(28, 28), 12)).resize((208, 208))
    path = tmp_path / "seven.png"
    sheet.save(path)
    prediction = classifier.read(path)
    assert prediction.label == 7
    assert prediction == classifier.read(str(path)) == classifier.read(path.read_bytes())
    assert prediction == classifier.read(sheet) == classifier.read(sheet.convert("P"))
    with Image.open(path) as opened:
        assert classifier.read(opened) == prediction
        assert opened.size == (208, 208)  # and it was not closed
        opened.getpixel((0, 0))


def test_read_refuses_everything_but_images_of_a_digit(classifier, tmp_path):
    with pytest.raises(FileMissingError, match="give an image file"):
        classifier.read(tmp_path / "none.png")
    with pytest.raises(DigitError, match="the image is of type ndarray; give an image file"):
        classifier.read(np.zeros((28, 28), np.uint8))
    with pytest.raises(DigitError, match="shows no digit"):
        classifier.read(Image.new("L", (100, 100), "white"))


@pytest.mark.parametrize("picture", ["seven.png", b"\x89PNG", Path("seven.png"), Image.new("L", (28, 28))])
def test_classify_refuses_pictures_and_names_read(classifier, picture):
    with pytest.raises(DigitError, match=r"read pictures of digits with Classifier\.read"):
        classifier.classify(picture)


def test_both_graphs_agree_to_the_bit_on_raw_and_scaled_digits(exported, uint8_classifier, test_split):
    as_float = Classifier(exported / "mnist.onnx")
    pixels = test_split.images / np.float32(256)
    expected = as_float.decision_function(test_split.images)
    assert np.array_equal(as_float.decision_function(pixels), expected)
    assert np.array_equal(uint8_classifier.decision_function(test_split.images), expected)
    assert np.array_equal(uint8_classifier.decision_function(pixels), expected)


def test_the_uint8_graph_takes_floats_divided_by_255_as_the_nearest_intensities(uint8_classifier, test_split):
    by_255 = test_split.images / np.float32(255)
    rounded = np.minimum(np.rint(by_255 * 256), 255).astype(np.uint8)
    assert np.array_equal(uint8_classifier.decision_function(by_255), uint8_classifier.decision_function(rounded))


def scribbles() -> np.ndarray:
    """A cross, a dash and a checkerboard, uint8 `[3, 28, 28]`."""
    pictures = np.zeros((3, 28, 28), np.uint8)
    for i in range(4, 24):
        pictures[0, i, i - 1 : i + 2] = pictures[0, i, 26 - i : 29 - i] = 255
    pictures[1, 13:16, 4:24] = 255
    pictures[2, 4:24, 4:24] = np.kron(np.indices((5, 5)).sum(axis=0) % 2, np.ones((4, 4))) * 255
    return pictures


def test_pictures_of_no_digit_get_that_verdict_and_still_a_label():
    classifier = Classifier()
    cross, dash, board = (prediction.verdict for prediction in classifier.predictions(scribbles()))
    assert dash == "no digit"
    assert "digit" not in {cross, board}
    assert set(classifier.predict(scribbles()).tolist()) <= set(range(10))
    assert classifier.classify(scribbles()[1]).no_digit > 0.5
    assert {prediction.no_digit for prediction in Classifier("linear").predictions(scribbles())} == {0.0}


@pytest.mark.parametrize("name", ["cnn", "linear"])
def test_a_larger_max_error_answers_more_and_still_bounds_the_errors(name, test_split):
    digits, answered = as_digits(test_split.images), []
    risks = (0.001, 0.01, 1)
    computed = [Classifier(name, max_error=max_error).compute(digits) for max_error in risks]
    for max_error, outputs in zip(risks, computed, strict=True):
        sure = outputs.verdicts == VERDICTS.index("digit")
        answered.append(sure.sum())
        assert (outputs.labels != test_split.labels)[sure].mean() < 3 * max_error
    assert answered[0] < answered[1] <= answered[2]
    assert answered[2] >= 0.995 * len(digits)
    np.testing.assert_array_equal(Classifier(name).compute(digits).verdicts, computed[0].verdicts)


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, mnist_runtime; print({'numpy', 'onnxruntime', 'click'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_an_unknown_name_is_an_attribute_error():
    import mnist_runtime

    assert "Classifier" in dir(mnist_runtime)
    with pytest.raises(AttributeError, match="Klassifier"):
        _ = mnist_runtime.Klassifier


def test_every_public_name_can_be_imported():
    import mnist_runtime

    assert all(getattr(mnist_runtime, name) for name in mnist_runtime.__all__)


def test_telemetry_is_off_before_onnxruntime_loads(tmp_path):
    code = "import numpy, mnist_runtime; mnist_runtime.Classifier().predict(numpy.zeros((28, 28), 'uint8'))"
    env = {"HOME": str(tmp_path), "PATH": "", "LANG": "C.UTF-8"}  # without CI, which turns telemetry off too
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert list(tmp_path.rglob("*")) == []
