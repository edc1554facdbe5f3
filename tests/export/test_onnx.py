"""ONNX artifacts: what is in the bytes, and what is not."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mnist_export.errors import ExportError
from mnist_export.onnx import to_graph, to_onnx_uint8
from mnist_runtime import Classifier
from mnist_train import checkpoint

ONNX_FILES = ["mnist.onnx", "mnist.uint8.onnx"]


@pytest.mark.parametrize("name", ONNX_FILES)
def test_the_graph_keeps_the_contract(exported, name):
    model = onnx.load(exported / name)
    (pixels,) = model.graph.input
    kind = onnx.TensorProto.UINT8 if "uint8" in name else onnx.TensorProto.FLOAT
    assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", kind)
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]
    for value, size in ((pixels, 784), *((output, 10) for output in model.graph.output)):
        batch, width = value.type.tensor_type.shape.dim
        assert (batch.dim_param, width.dim_value) == ("batch", size)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", 18)])
    onnx.checker.check_model(model, full_check=True)


def test_the_uint8_graph_is_one_cast_before_the_same_layers(exported):
    operators = [[node.op_type for node in onnx.load(exported / name).graph.node] for name in ONNX_FILES]
    assert operators == [["Gemm", "Softmax"], ["Cast", "Gemm", "Softmax"]]


@pytest.mark.parametrize("name", ONNX_FILES)
def test_everything_is_in_the_one_file(exported, name):
    model = onnx.load(exported / name, load_external_data=False)
    assert all(w.data_location == onnx.TensorProto.DEFAULT and not w.external_data for w in model.graph.initializer)
    assert not list(exported.glob("*.data"))


@pytest.mark.parametrize("name", [*ONNX_FILES, "mnist.torchscript.pt"])
def test_nothing_tells_of_the_machine(exported, name):
    data = (exported / name).read_bytes()
    for trace in (b"stack_trace", b"pkg.torch", b"debug_pkl", b"site-packages", b"Traceback", str(exported).encode()):
        assert trace not in data
    assert not re.search(rb"/(home|root|Users|tmp|usr|work)/", data)


@pytest.mark.parametrize("name", ONNX_FILES)
def test_no_node_or_value_carries_more_than_the_programme(exported, name):
    graph = onnx.load(exported / name).graph
    parts = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    assert all(not part.doc_string and not part.metadata_props for part in parts)


def test_the_metadata_tells_how_the_model_came_to_be(exported, trained):
    metadata = Classifier(exported / "mnist.onnx").artifact.metadata
    source = checkpoint.load(trained / "mnist.safetensors")
    assert metadata["checkpoint_sha256"] == source.sha256
    assert json.loads(metadata["training"]) == source.record
    assert json.loads(metadata["input"])["scale"] == "1/256"
    assert json.loads(metadata["classes"]) == list(range(10))
    assert json.loads(metadata["tools"])["torch"] == torch.__version__


def test_the_golden_digits_are_real_ones_of_every_class_and_the_edges(exported, validation):
    golden = Classifier(exported / "mnist.uint8.onnx").artifact.golden
    known = {image.tobytes(): label for image, label in zip(validation.images, validation.labels, strict=True)}
    assert [known[digit.tobytes()] for digit in golden.digits[:20]] == sorted([*range(10)] * 2)
    assert [np.count_nonzero(digit) for digit in golden.digits[20:]] == [0, 784, 1]


def test_a_module_that_cannot_be_traced_is_an_export_error():
    class Undecided(nn.Module):
        def forward(self, pixels):
            return pixels[:, :10] if pixels.sum() > 0 else pixels[:, 10:20]

    with pytest.raises(ExportError, match="cannot follow this module"):
        to_graph(Undecided())


def test_exporting_says_nothing_on_its_own(capfd):
    to_graph(nn.Linear(784, 10))
    assert capfd.readouterr() == ("", "")


def test_weights_too_small_for_an_exact_1_256_are_refused():
    layer = nn.Linear(784, 10)
    with torch.no_grad():
        layer.weight[0, 0] = 2.0**-145
    with pytest.raises(ExportError, match="use --format onnx"):
        to_onnx_uint8(to_graph(layer), {})


def test_a_module_that_does_not_begin_with_a_linear_layer_has_no_uint8_form():
    with pytest.raises(ExportError, match="begins with Tanh"):
        to_onnx_uint8(to_graph(nn.Sequential(nn.Tanh(), nn.Linear(784, 10))), {})
