"""mnist-export publishes every format of an exact network, or fails in one sentence."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from mnist_export import export
from mnist_export.bundle import Bundle
from mnist_export.errors import ExportError
from mnist_export.exact.formats import expect_exactly, network
from mnist_export.formats import FORMATS
from mnist_export.gate import ParityError, judge
from mnist_runtime import Classifier
from mnist_runtime.model.header import Header
from mnist_runtime.model.javascript import JavaScript
from mnist_runtime.model.manifest import read_manifest
from mnist_runtime.page import app_files, module_of


def test_both_prints_compute_the_integers_whose_digest_the_manifest_holds(everything, validation):
    digits = validation.images.reshape(-1, 784)
    records = read_manifest(everything).document["files"]
    exact, header = records["mnist.exact.onnx"], records["mnist.h"]
    integers = Header((everything / "mnist.h").read_bytes(), "mnist.h").logits(digits)
    digest = hashlib.sha256(integers.astype("<i4").tobytes()).hexdigest()
    assert digest == exact["logits_sha256"] == header["logits_sha256"]
    assert digest in (everything / "mnist.h").read_text()
    logits = Classifier(everything / "mnist.exact.onnx").decision_function(digits)
    assert np.array_equal(np.ldexp(logits, -exact["exponent"]), integers)
    assert (exact["bound"], exact["opset"]) == ("exact", 13)
    assert exact["parity"][-1]["certified"] == 10_000
    assert max(exact["largest_sums"]) < 2**24


def test_the_linear_model_loses_at_most_a_tenth_of_a_point(everything):
    record = read_manifest(everything).document["files"]["mnist.exact.onnx"]
    assert record["module_accuracy"] - record["accuracy"] <= 0.001
    assert record["agreement"] > 0.99


needs_node = pytest.mark.skipif(not shutil.which("node"), reason="there is no node")
in_node = [pytest.param(name, marks=needs_node) for name in ("mnist.mjs", "mnist.html")]


@needs_node
def test_the_module_and_the_page_compute_the_same_integers(everything, validation):
    records = read_manifest(everything).document["files"]
    module, page = ((everything / name).read_bytes() for name in ("mnist.mjs", "mnist.html"))
    assert module_of(page) == module
    integers = JavaScript(module, "mnist.mjs").logits(validation.images.reshape(-1, 784))
    digest = hashlib.sha256(integers.astype("<i4").tobytes()).hexdigest()
    assert {records[name]["logits_sha256"] for name in ("mnist.h", "mnist.mjs", "mnist.html")} == {digest}
    assert digest in module.decode()
    assert len(page) <= 100_000


@needs_node
def test_the_files_that_make_the_page_an_app_lie_beside_it_and_in_the_manifest(everything):
    records = read_manifest(everything).document["files"]
    for name, data in app_files("mnist.html").items():
        assert (everything / name).read_bytes() == data
        assert (records[name]["format"], records[name]["sha256"]) == ("app", hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def bundle(checkpoint, validation):
    return Bundle(checkpoint, validation)


@pytest.mark.parametrize("name", ["mnist.exact.onnx", "mnist.h", *in_node])
def test_one_bit_of_one_logit_is_refused(bundle, name):
    format_ = next(format_ for format_ in FORMATS.values() if format_.file == name)
    expected = bundle.once(expect_exactly)
    compute = format_.load(format_.recipe.build(bundle, expected))

    def off_by_one(digits):
        logits, *others = compute(digits)
        logits[-1:, 3] += np.float32(2.0 ** bundle.once(network).exponent)
        return logits, *others

    assert judge(compute, expected).failure is None
    assert "class 3" in judge(off_by_one, expected).failure.failures[0]


def test_a_header_whose_self_test_fails_is_not_published(everything):
    header = (everything / "mnist.h").read_bytes()
    with pytest.raises(ExportError, match="its self-test returns 1"):
        FORMATS["c"].load(header.replace(b"mnist_bias1[10] = {\n    ", b"mnist_bias1[10] = {\n    1"))


def test_a_module_without_an_exact_form_is_refused_and_nothing_published(tmp_path):
    with pytest.raises(ExportError, match=r"the layer '0' \(Tanh\) cannot be made exact"):
        export(nn.Sequential(nn.Tanh(), nn.Linear(784, 10)), ["onnx", "onnx-exact"], tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_rounding_that_costs_too_much_is_refused(tmp_path, checkpoint):
    class Fragile(nn.Module):
        """A module whose weights lose everything in 8 bits, because those of a dark pixel are far larger."""

        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(784, 10)
            self.lin.load_state_dict(checkpoint.module.lin.state_dict())
            with torch.no_grad():
                self.lin.weight[:, 0] = 1e3

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.lin(pixels)

    with pytest.raises(ParityError, match=r"mnist.h loses \d+\.\d\d points of accuracy.*--max-accuracy-drop"):
        export(Fragile(), ["c"], tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_without_a_compiler_no_header_is_published(run, trained, tmp_path):
    arguments = (trained / "mnist.safetensors", "--format", "c", "--output-dir", tmp_path)
    result = run("mnist-export", *arguments, env={"CC": "no-such-compiler"})
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert b"this machine has no compiler 'no-such-compiler'; install one, or name yours" in result.stderr
    assert not (tmp_path / "manifest.json").exists()


def test_without_node_no_module_is_published(run, trained, tmp_path):
    arguments = (trained / "mnist.safetensors", "--format", "js", "--output-dir", tmp_path)
    result = run("mnist-export", *arguments, env={"PATH": str(tmp_path)})
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"mnist.mjs is JavaScript, and this machine has no node; install Node.js" in result.stderr
    assert not (tmp_path / "manifest.json").exists()


def test_json_names_the_bound_exact(run, trained, tmp_path):
    result = run(
        "mnist-export", trained / "mnist.safetensors", "--format", "onnx-exact", "--output-dir", tmp_path, "--json"
    )
    assert json.loads(result.stdout)[0]["bound"] == "exact"
