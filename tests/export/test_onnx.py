"""ONNX artifacts: the graph, its metadata, and no traces of the machine."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mnist_export.onnx import to_graph, uint8_graph
from mnist_runtime import Classifier
from mnist_train import checkpoint

ONNX_FILES = ["mnist.onnx", "mnist.uint8.onnx"]


@pytest.mark.parametrize("name", ONNX_FILES)
def test_the_graph_has_the_inputs_and_outputs_of_the_contract(exported, name):
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


@pytest.mark.parametrize("name", [*ONNX_FILES, "mnist.torchscript.pt"])
def test_no_file_of_a_default_export_carries_traces_of_the_machine(exported, name):
    data = (exported / name).read_bytes()
    for trace in (b"stack_trace", b"pkg.torch", b"debug_pkl", b"site-packages", b"Traceback", str(exported).encode()):
        assert trace not in data
    assert not re.search(rb"/(home|root|Users|tmp|usr|work)/", data)


def test_the_metadata_hold_the_record_of_the_training(exported, trained):
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


def test_weights_too_small_for_an_exact_1_256_are_left_and_the_pixels_scaled():
    layer = nn.Linear(784, 10)
    with torch.no_grad():
        layer.weight[0, 0] = 2.0**-145
    assert [node.op_type for node in uint8_graph(to_graph(layer)).graph.node][:3] == ["Cast", "Mul", "Gemm"]


def test_pixels_that_meet_no_linear_layer_first_are_scaled():
    graph = uint8_graph(to_graph(nn.Sequential(nn.Tanh(), nn.Linear(784, 10)))).graph
    assert [node.op_type for node in graph.node][:3] == ["Cast", "Mul", "Tanh"]
