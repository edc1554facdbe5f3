"""The classifier that other programs embed."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_runtime import Classifier, DigitError, FileMissingError, Prediction
from mnist_runtime.digits import as_digits
from mnist_runtime.model.comparison import softmax


@pytest.fixture(scope="module")
def classifier(bundled) -> Classifier:
    return Classifier()


@pytest.fixture(scope="module")
def uint8_classifier(exported) -> Classifier:
    return Classifier(exported / "mnist.uint8.onnx")


def test_the_bundled_model_recognises_unseen_digits(classifier, test_split):
    assert (classifier.predict(test_split.images) == test_split.labels).mean() == 0.9134


def test_the_outputs_have_scikit_learns_shapes_and_dtypes(classifier, test_split):
    some = test_split.images[:5]
    assert classifier.decision_function(some).shape == classifier.predict_proba(some).shape == (5, 10)
    assert classifier.decision_function(some).dtype == classifier.predict_proba(some).dtype == np.float32
    assert classifier.predict(some).shape == (5,)
    assert classifier.predict(some).dtype == classifier.classes_.dtype == np.int64
    assert classifier.classes_.tolist() == list(range(10))


def test_probabilities_are_the_softmax_of_the_logits(classifier, test_split):
    logits = classifier.decision_function(test_split.images).astype(np.float64)
    probabilities = classifier.predict_proba(test_split.images)
    np.testing.assert_allclose(probabilities, softmax(logits), rtol=1e-5, atol=2**-126)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5, 2000])
def test_compute_gives_logits_probabilities_and_labels_of_checked_digits(classifier, test_split, count):
    computed = classifier.compute(as_digits(test_split.images[:count]))
    assert len(computed) == count
    np.testing.assert_array_equal(computed.logits, classifier.decision_function(test_split.images[:count]))
    np.testing.assert_array_equal(computed.probabilities, classifier.predict_proba(test_split.images[:count]))
    np.testing.assert_array_equal(computed.labels, classifier.predict(test_split.images[:count]))
    np.testing.assert_array_equal(computed[1:4].logits, computed.logits[1:4])
    np.testing.assert_array_equal(computed[1:4].probabilities, computed.probabilities[1:4])


def test_the_golden_digits_of_both_graphs_are_replayed(classifier):
    comparisons = classifier.replay()
    assert [(found.name, found.passed) for found in comparisons] == [
        ("the bundled model", True),
        ("its uint8 twin", True),
    ]


def test_classify_tells_label_and_probabilities(classifier, test_split):
    prediction = classifier.classify(test_split.images[0])
    row = classifier.predict_proba(test_split.images[0])[0]
    assert prediction == Prediction(7, float(row[7]), tuple(row.tolist()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction.label = 3


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


def test_read_refuses_what_is_no_image(classifier, tmp_path):
    with pytest.raises(FileMissingError, match="give an image file"):
        classifier.read(tmp_path / "none.png")
    with pytest.raises(DigitError, match="the image is of type ndarray; give an image file"):
        classifier.read(np.zeros((28, 28), np.uint8))
    with pytest.raises(DigitError, match="shows no digit"):
        classifier.read(Image.new("L", (100, 100), "white"))


@pytest.mark.parametrize("picture", ["seven.png", b"\x89PNG", Path("seven.png"), Image.new("L", (28, 28))])
def test_classify_sends_pictures_to_read(classifier, picture):
    with pytest.raises(DigitError, match=r"read pictures of digits with Classifier\.read"):
        classifier.classify(picture)


def test_both_graphs_agree_to_the_bit_on_raw_and_scaled_digits(exported, uint8_classifier, test_split):
    as_float = Classifier(exported / "mnist.onnx")
    pixels = test_split.images / np.float32(256)
    expected = as_float.decision_function(test_split.images)
    assert np.array_equal(as_float.decision_function(pixels), expected)
    assert np.array_equal(uint8_classifier.decision_function(test_split.images), expected)
    assert np.array_equal(uint8_classifier.decision_function(pixels), expected)


def test_the_uint8_graph_refuses_floats_it_cannot_hold(uint8_classifier, test_split):
    with pytest.raises(DigitError, match="use the float32 model"):
        uint8_classifier.predict(test_split.images[0] / 255)


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
    env = {"HOME": str(tmp_path), "PATH": "", "LANG": "C.UTF-8"}  # and no CI, which would hide it
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert list(tmp_path.rglob("*")) == []
