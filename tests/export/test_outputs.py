"""Networks of eleven logits: every format gives "no digit", and integers and probabilities give the same verdicts."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mnist_export.bundle import Bundle, Gated
from mnist_export.exact.formats import network
from mnist_export.formats import FORMATS
from mnist_export.gate import judge
from mnist_export.publishing import publish
from mnist_runtime import ArtifactError, Classifier, IntegrityError
from mnist_runtime.model.artifact import ALL_LOGITS, PREFIX, Artifact, with_output
from mnist_runtime.model.comparison import compare, softmax
from mnist_runtime.model.header import Header
from mnist_runtime.model.javascript import JavaScript
from mnist_runtime.model.program import logits_sha256
from mnist_runtime.model.seal import seal
from mnist_runtime.parity.findings import verify_file
from mnist_runtime.verdicts import VERDICTS
from mnist_train.checkpoint import Checkpoint
from mnist_train.data.bundled import Split

ONNX = [name for name, format_ in FORMATS.items() if format_.is_onnx]
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, validation: Split) -> Bundle:
    """The trained linear model with an eleventh logit, which is the largest where ten are small."""
    module = nn.Sequential(nn.Linear(784, 11)).eval()
    with torch.no_grad():
        module[0].weight[:10], module[0].bias[:10] = checkpoint.module.lin.weight, checkpoint.module.lin.bias
        module[0].weight[10], module[0].bias[10] = 0.01, -1.0
    return Bundle(Checkpoint(module, checkpoint.record, "0" * 64, 1), validation)


@pytest.fixture(scope="module")
def built(bundle: Bundle) -> Callable[[str], Gated]:
    made: dict[str, Gated] = {}

    def build(name: str) -> Gated:
        if name not in made:
            made[name] = bundle.build(FORMATS[name])
        return made[name]

    return build


@pytest.fixture(scope="module")
def digits(validation: Split) -> np.ndarray:
    """Validation digits and pictures of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 784)).astype(np.uint8)
    return np.concatenate([validation.images.reshape(-1, 784), noise, np.zeros((1, 784), np.uint8)])


@pytest.mark.parametrize("name", ONNX)
def test_every_graph_computes_the_probability_of_no_digit(built, bundle, digits, name):
    artifact = Artifact.from_bytes(built(name).data, name)
    assert artifact.outputs == ("logits", "probabilities", "no_digit")
    logits, probabilities, no_digit = artifact.run(digits, *artifact.outputs)
    assert (logits.shape, probabilities.shape, no_digit.shape) == ((len(digits), 10), (len(digits), 10), (len(digits),))
    eleven = artifact.all_logits(digits)
    assert np.array_equal(eleven[:, :10], logits)
    np.testing.assert_allclose(no_digit, softmax(eleven.astype(np.float64))[:, 10], rtol=1e-4, atol=1e-30)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    with torch.no_grad():
        wanted = bundle.checkpoint.module(torch.from_numpy(digits) / 256).numpy()
    assert np.abs(eleven - wanted)[:10_000].max() < (1 if name == "onnx-exact" else 1e-4)


@pytest.mark.parametrize("name", ["torchscript", "pt2"])
def test_programs_of_torch_compute_all_logits(built, digits, name):
    (logits,) = FORMATS[name].load(built(name).data)(digits[:5])
    assert logits.shape == (5, 11)


@needs_compiler
def test_integers_and_probabilities_call_the_same_pictures_no_digit(built, bundle, digits):
    header = Header(built("c").data, "mnist.h")
    integers, labels = header.answers(digits)
    assert integers.shape == (len(digits), 11)
    assert np.array_equal(integers, bundle.once(network).logits(digits))
    outputs = Classifier(built("onnx-exact").data).compute(digits)
    assert np.array_equal(labels, np.where(outputs.verdicts == VERDICTS.index("no digit"), -1, outputs.labels))
    assert 0 < (labels[:10_000] == -1).sum() <= 10
    assert (labels == -1).any()
    assert (labels >= 0).any()
    assert f"#define MNIST_NO_DIGIT ({header.no_digit})".encode() in built("c").data
    assert b"-1 for what is no digit" in built("c").data


@needs_compiler
@pytest.mark.skipif(not shutil.which("node"), reason="there is no node")
def test_javascript_decides_as_c_does(built, digits):
    module, header = JavaScript(built("js").data, "mnist.mjs"), Header(built("c").data, "mnist.h")
    assert (module.outputs, module.no_digit) == (11, header.no_digit)
    for computed, wanted in zip(module.answers(digits), header.answers(digits), strict=True):
        assert np.array_equal(computed, wanted)
    assert b'"confidence": [[0.001, ' in built("js").data


@needs_compiler
def test_both_prints_are_of_one_digest_over_all_logits(built, digits, tmp_path):
    wanted = built("c").record["logits_sha256"]
    assert built("onnx-exact").record["logits_sha256"] == wanted
    for name in ("onnx-exact", "c"):
        path = tmp_path / FORMATS[name].file
        path.write_bytes(built(name).data)
        finding = verify_file(path, digits[:10_000])
        assert (finding.problem, finding.logits_sha256) == (None, wanted)
    header = Header(built("c").data, "mnist.h")
    assert logits_sha256(header.logits(digits[:10_000])) == wanted


@needs_compiler
def test_a_header_whose_rule_is_broken_does_not_pass_the_gate(built, bundle):
    broken = built("c").data.replace(b"> MNIST_NO_DIGIT ? -1", b">= MNIST_NO_DIGIT - 99 ? -1")
    assert broken != built("c").data
    failure = judge(FORMATS["c"].load(broken), FORMATS["c"].recipe.expect(bundle)).failure
    assert "against its own threshold" in failure.failures[0]


def _damaged(data: bytes, tensor: str, place: tuple[int, ...], value: float) -> bytes:
    """Change a number of an initialiser, and seal the model as a faulty exporter would."""
    model = onnx.load_from_string(data)
    found = next(each for each in model.graph.initializer if each.name == tensor)
    values = numpy_helper.to_array(found).copy()
    values[place] = value
    found.CopyFrom(numpy_helper.from_array(values, tensor))
    next(entry for entry in model.metadata_props if entry.key == f"{PREFIX}sha256").value = "0" * 64
    return seal(model.SerializeToString(deterministic=True))


def test_an_eleventh_logit_that_is_off_by_one_integer_is_found_by_the_golden_digits(built, bundle):
    data = built("onnx-exact").data
    bias = numpy_helper.to_array(
        next(each for each in onnx.load_from_string(data).graph.initializer if each.name == "layer1.bias")
    )
    damaged = _damaged(data, "layer1.bias", (10,), bias[10] + 1)
    comparison = Artifact.from_bytes(damaged, "damaged").replay()
    assert "probability of no digit for digit" in comparison.failures[0]
    assert judge(FORMATS["onnx-exact"].load(damaged), FORMATS["onnx-exact"].recipe.expect(bundle)).failure


def test_a_graph_without_its_third_output_does_not_pass(built):
    artifact = Artifact.from_bytes(built("onnx").data, "it")
    outputs = artifact.run(artifact.golden.digits, *artifact.outputs)
    assert compare("golden", artifact.golden, *outputs).passed
    assert "no_digit are missing" in compare("golden", artifact.golden, *outputs[:2]).failures[0]


def test_thresholds_travel_in_metadata_and_manifest(built, bundle, digits, tmp_path):
    for name in ("onnx", "onnx-exact"):
        publish(tmp_path / name, bundle.made_from, built(name).files)
        classifier = Classifier(tmp_path / name, max_error=0.01)
        record = json.loads((tmp_path / name / "manifest.json").read_text())["files"][FORMATS[name].file]
        assert json.loads(classifier.artifact.metadata["thresholds"]) == record["thresholds"]
        outputs = classifier.compute(digits[:10_000])
        answered = outputs.verdicts == VERDICTS.index("digit")
        wrong = outputs.labels != bundle.expected.labels
        assert 0.5 < answered.mean() < 1
        assert 0.009 < wrong[answered].mean() <= 0.01


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("thresholds", "{}", "carries no readable thresholds"), ("largest_layer", "-1", "has the largest layer '-1'")],
)
def test_unreadable_metadata_are_refused(built, name, value, sentence):
    model = onnx.load_from_string(built("onnx").data)
    for entry in model.metadata_props:
        if entry.key == PREFIX + name:
            entry.value = value
        if entry.key == f"{PREFIX}sha256":
            entry.value = "0" * 64
    with pytest.raises(ArtifactError, match=sentence):
        Classifier(seal(model.SerializeToString()))
    with pytest.raises(IntegrityError):
        Classifier(model.SerializeToString())


def test_the_triton_configuration_describes_the_third_output(built):
    (config,) = built("triton").side_files
    assert b'{ name: "no_digit" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } }' in config.data


def test_an_inner_tensor_can_be_asked_for(built):
    names = [value.name for value in onnx.load_from_string(with_output(built("onnx").data, ALL_LOGITS)).graph.output]
    assert names == ["logits", "probabilities", "no_digit", ALL_LOGITS]


@needs_compiler
def test_the_program_in_the_readme_of_c_prints_minus_one(built, digits, tmp_path):
    (tmp_path / "mnist.h").write_bytes(built("c").data)
    source = Path(__file__).parents[2] / "examples" / "c" / "main.c"
    program = tmp_path / "digit"
    subprocess.run(["cc", "-std=c99", "-I", tmp_path, source, "-o", program], check=True)
    labels = Header(built("c").data, "mnist.h").answers(digits)[1]
    picture = digits[np.flatnonzero(labels == -1)[0]]
    assert subprocess.run([program], input=picture.tobytes(), capture_output=True, check=True).stdout == b"-1\n"
