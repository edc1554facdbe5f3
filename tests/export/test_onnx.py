"""ONNX artifacts: the graph, its metadata, and no traces of the machine."""

import json
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from mnist_export.errors import ExportError
from mnist_export.onnx import for_opset, trace, uint8_graph
from mnist_export.outputs import with_outputs
from mnist_runtime import Classifier
from mnist_train import checkpoint
from mnist_train.models import CNN

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
    for leak in (b"stack_trace", b"pkg.torch", b"debug_pkl", b"site-packages", b"Traceback", str(exported).encode()):
        assert leak not in data
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
    assert [node.op_type for node in uint8_graph(trace(layer)[1]).graph.node][:3] == ["Cast", "Mul", "Gemm"]


def test_pixels_that_meet_no_linear_layer_first_are_scaled():
    graph = uint8_graph(trace(nn.Sequential(nn.Tanh(), nn.Linear(784, 10)))[1]).graph
    assert [node.op_type for node in graph.node][:3] == ["Cast", "Mul", "Tanh"]


def test_every_older_opset_computes_the_logits_of_a_network_with_reshapes_and_norms(test_split):
    torch.manual_seed(0)
    _, graph = trace(CNN().eval())
    pixels, _ = test_split.part(0, 5).tensors()

    def logits(opset: int) -> np.ndarray:
        model = with_outputs(for_opset(graph, opset))
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == opset
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"pixels": pixels.numpy()})[0]

    wanted = logits(18)
    for opset in range(13, 18):
        assert np.array_equal(logits(opset), wanted), opset


def test_an_operator_that_an_opset_lacks_is_named_with_an_opset_that_has_it():
    _, graph = trace(nn.Sequential(nn.Hardswish(), nn.Linear(784, 10)))
    for_opset(graph, 14)
    with pytest.raises(ExportError, match=r"opset 13 cannot express this module \(.*HardSwish.*\); use opset 18$"):
        for_opset(graph, 13)
