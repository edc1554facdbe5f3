"""The models of a classifier: a file, bytes, a published folder, a foreign model; and the graph that computes."""

import json
import shutil

import numpy as np
import onnx
import pytest

from mnist_runtime import ArtifactError, Classifier, DigitError, IntegrityError, Prediction
from mnist_runtime.digits import as_pixels


@pytest.fixture(scope="module")
def stranger(bundled):
    """The bundled model without any metadata, as another exporter would have written it."""
    model = onnx.load(bundled)
    del model.metadata_props[:]
    return model.SerializeToString()


def test_path_bytes_and_folder_are_the_same_model(bundled, exported, test_split):
    digits = test_split.images[:300]
    wanted = Classifier(exported / "mnist.onnx").decision_function(digits)
    for model in (str(exported / "mnist.onnx"), (exported / "mnist.onnx").read_bytes(), exported):
        assert np.array_equal(Classifier(model).decision_function(digits), wanted)
    assert np.array_equal(Classifier("linear").decision_function(digits), Classifier(bundled).decision_function(digits))


def test_a_published_folder_gives_uint8_digits_to_the_uint8_graph(exported, test_split):
    classifier = Classifier(exported)
    digit = test_split.images[0]
    fed = []

    def spied(run):
        return lambda names, inputs, options: fed.append(inputs["pixels"].dtype) or run(names, inputs, options)

    for artifact in classifier._opened():
        artifact.__dict__["_run"] = spied(artifact._run)
    classifier.classify(digit)
    classifier.classify(as_pixels(digit.reshape(1, 784)))
    assert fed == [np.uint8, np.float32]


def test_a_folder_whose_file_changed_is_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    damaged = bytearray((tmp_path / "model" / "mnist.uint8.onnx").read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "model" / "mnist.uint8.onnx").write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"mnist\.uint8\.onnx"):
        Classifier(tmp_path / "model")


def test_a_folder_without_an_onnx_model_is_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    manifest["files"] = {k: v for k, v in manifest["files"].items() if v["format"] == "torchscript"}
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="without an ONNX model"):
        Classifier(tmp_path / "model")


def test_a_model_without_our_metadata_is_refused_unless_the_caller_vouches_for_it(stranger, test_split):
    with pytest.raises(ArtifactError, match=r'trusted_contract="float32"'):
        Classifier(stranger)
    with pytest.raises(ArtifactError, match="takes float32 pixels, and trusted_contract says uint8"):
        Classifier(stranger, trusted_contract="uint8")
    trusted = Classifier(stranger, trusted_contract="float32")
    assert np.array_equal(trusted.predict(test_split.images), Classifier("linear").predict(test_split.images))


def test_a_trusted_model_with_outputs_of_a_wrong_shape_is_an_error(stranger, test_split):
    model = onnx.load_from_string(stranger)
    for node in model.graph.node:
        node.output[:] = [{"logits": "all"}.get(name, name) for name in node.output]
        node.input[:] = [{"logits": "all"}.get(name, name) for name in node.input]
    third = onnx.helper.make_tensor("third", onnx.TensorProto.BOOL, [3], [False, False, True])
    model.graph.initializer.append(third)
    model.graph.node.append(onnx.helper.make_node("Compress", ["all", "third"], ["logits"], axis=0))
    with Classifier(model.SerializeToString(), trusted_contract="float32") as classifier:
        for method, count, rows in ((classifier.classify, 1, 0), (classifier.predict, 7, 1)):
            with pytest.raises(ArtifactError, match=rf"computes \({rows}, 10\) where \({count}, 10\) is wanted"):
                method(test_split.images[:count])


def test_a_trusted_model_with_another_interface_is_refused_all_the_same(stranger):
    model = onnx.load_from_string(stranger)
    model.graph.output.pop()
    with pytest.raises(ArtifactError, match="the contract is"):
        Classifier(model.SerializeToString(), trusted_contract="float32")


BATCH = Classifier().artifact.batch


def test_a_batch_is_as_many_digits_as_a_cache_holds_of_the_largest_layer():
    assert BATCH == 2 * 2**20 // (16 * 24 * 24 * 4)  # of the first convolution
    assert Classifier("linear").artifact.batch == 2 * 2**20 // (784 * 4)


@pytest.mark.parametrize("count", [0, 1, 2, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 7])
def test_a_batch_of_any_size_gets_the_answers_of_its_single_digits(test_split, count):
    classifier, digits = Classifier(), test_split.images[:count]
    logits = classifier.decision_function(digits)
    assert logits.shape == (count, 10)
    assert logits.dtype == np.float32
    for index in {0, count // 2, count - 1} if count else ():
        assert np.allclose(logits[index], classifier.decision_function(digits[index])[0], atol=1e-4)
    assert np.array_equal(classifier.predict(digits), logits.argmax(axis=1))
    assert np.allclose(classifier.predict_proba(digits).sum(axis=1), 1)
    assert np.array_equal(np.concatenate([np.empty(0), *classifier.iter_predict([digits])]), logits.argmax(axis=1))


@pytest.mark.parametrize("shape", [(784,), (28, 28), (1, 784), (1, 28, 28), (1, 1, 28, 28)])
def test_every_shape_and_dtype_of_a_digit_gives_the_same_prediction(test_split, shape):
    classifier, digit = Classifier(), test_split.images[7]
    variants = [digit, digit.astype(np.int16), as_pixels(digit.reshape(1, 784)), digit / 256, np.asfortranarray(digit)]
    (prediction,) = {classifier.classify(variant.reshape(shape)) for variant in variants}
    assert prediction.label == 9
    assert prediction.probability == max(prediction.probabilities)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-9, 1.0000001, 255])
def test_one_bad_float_anywhere_is_refused(bad):
    digit = np.zeros((28, 28), np.float32)
    digit[27, 27] = bad
    for method in ("decision_function", "predict_proba", "predict", "classify"):
        with pytest.raises(DigitError):
            getattr(Classifier(), method)(digit)


def test_minus_zero_is_zero():
    classifier = Classifier("linear")
    assert classifier.classify(np.full((28, 28), -0.0, np.float32)) == classifier.classify(np.zeros((28, 28), np.uint8))


def test_a_bad_float_in_the_last_chunk_is_refused(test_split):
    pixels = as_pixels(test_split.images[: BATCH + 5].reshape(-1, 784))
    pixels[-1, -1] = np.nan
    with pytest.raises(DigitError, match="NaN"):
        Classifier().predict(pixels)


def test_a_prediction_is_json_serialisable_and_frozen(test_split):
    prediction = Classifier().classify(test_split.images[0])
    record = json.loads(json.dumps(prediction.to_dict()))
    assert Prediction(**{**record, "probabilities": tuple(record["probabilities"])}) == prediction
    assert prediction.top(1) == [(prediction.label, prediction.probability)]
    assert sorted(label for label, _ in prediction.top(10)) == list(range(10))
    with pytest.raises(AttributeError):
        prediction.label = 3
    with pytest.raises((AttributeError, TypeError)):
        prediction.note = "no room"


def test_classify_takes_one_digit(test_split):
    for count in (0, 2):
        with pytest.raises(DigitError, match=f"these are {count} digits"):
            Classifier().classify(test_split.images[:count])
